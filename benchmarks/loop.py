"""What a run adds to its bare training step, on the recipe that `nfx train` runs by default.

    python benchmarks/loop.py
    python benchmarks/loop.py --rounds 20 --out benchmarks/results/loop.md

The alternatives take the same number of steps in turn, in one process:

- bare: the compiled step on one batch that is on the device already, without the parameters'
  average and without telemetry;
- step: the same with both, as a run compiles it;
- run: `run_training` as `nfx train` calls it: images are loaded, decoded, shuffled and placed
  ahead, and every ten steps metrics are fetched, averaged, written to metrics.jsonl and to
  TensorBoard, and drawn on a terminal.

Evaluations and checkpoints are left out: they come as seldom as one asks for them.
"""

import argparse
import dataclasses
import io
import tempfile
from pathlib import Path

import jax
from _measure import interleave, machine, markdown
from rich.console import Console

from nfx.recipes import build_parts, get_recipe
from nfx.recipes._feed import Feed
from nfx.sharding import make_mesh
from nfx.train import (
    Cadence,
    create_state,
    Display,
    MetricsLog,
    open_boards,
    run_training,
    RunDirectory,
)


class Steps:
    """A compiled step, called over and over on one batch."""

    def __init__(self, recipe, mesh, *, observed):
        """Compiles it, with or without telemetry."""
        parts = build_parts(recipe)
        parts = parts if observed else parts._replace(observe=lambda *_: {})
        self.state = create_state(parts.build_model, parts.optimizer, mesh)
        self.batch, self.key = next(training_batches(parts, recipe, mesh, 0)), parts.key
        self.step = parts.train_step(mesh).lower(self.state, self.batch, self.key).compile()

    def take(self, count):
        """Takes so many steps."""
        for _ in range(count):
            self.state, _ = self.step(self.state, self.batch, self.key)
        jax.block_until_ready(self.state)


class Run:
    """A run that can be gone on with, and what it writes."""

    def __init__(self, recipe, mesh, log, display):
        """Compiles its step."""
        self.recipe, self.parts, self.mesh = recipe, build_parts(recipe), mesh
        steps = Steps(recipe, mesh, observed=True)
        self.step, self.state = steps.step, steps.state
        self.written, self.display = log, display
        # They go on over all rounds, as in a run.
        self.batches = training_batches(self.parts, recipe, mesh, 0)

    def take(self, count):
        """Takes so many steps."""
        last = int(self.state.step) + count
        cadence = Cadence(steps=last, log_every=10, evaluate_every=10**9, checkpoint_every=10**9)
        self.state = run_training(
            self.step, self.state, self.batches, self.parts.key, cadence, self
        )
        jax.block_until_ready(self.state)

    def log(self, step, metrics, pace):
        """Writes and shows metrics, as a run does."""
        self.written.write(step, {**metrics, **pace._asdict()})
        self.display.update(step, self.written.latest)

    def evaluate(self, step, state):
        """Is due at the end of each round, and left out."""

    def checkpoint(self, step, state, unlogged):
        """As `evaluate`."""

    def should_stop(self, step, together):
        """Never."""
        return False


def training_batches(parts, recipe, mesh, first_step):
    feed = Feed(parts.images, mesh)
    return feed.training(recipe.batch_size, seed=recipe.seed, first_step=first_step)


def measure(rounds, steps):
    """Takes steps of all alternatives in turn; returns their timings."""
    recipe, mesh = get_recipe("sample"), make_mesh({"data": 1}, jax.devices()[:1])
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    with tempfile.TemporaryDirectory() as root:
        directory = RunDirectory.create(Path(root) / "run", {})
        boards = open_boards(directory, step=0, say=print)
        with (
            MetricsLog(directory.path, step=0, boards=boards) as log,
            Display(10**6, recipe.batch_size, screen) as display,
        ):
            takers = {
                "bare": Steps(dataclasses.replace(recipe, ema=0.0), mesh, observed=False),
                "step": Steps(recipe, mesh, observed=True),
                "run": Run(recipe, mesh, log, display),
            }
            calls = {name: lambda taker=taker: taker.take(steps) for name, taker in takers.items()}
            return interleave(calls, rounds)


def main():
    """Parses the arguments, measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100, help="steps a round")
    parser.add_argument("--out", help="a file to write the result to")
    options = parser.parse_args()
    timings = measure(options.rounds, options.steps)
    rows = [
        (
            name,
            f"{1000 * timing.wall / options.steps:.2f}",
            f"{1000 * timing.cpu / options.steps:.2f}",
            f"{timing.wall / timings['bare'].wall:.3f}",
        )
        for name, timing in timings.items()
    ]
    result = "\n\n".join([
        f"`python benchmarks/loop.py --rounds {options.rounds} --steps {options.steps}`",
        machine("jax", "nfx"),
        markdown(["alternative", "ms/step", "CPU ms/step", "wall of bare"], rows),
    ])  # fmt: skip
    print(result)
    if options.out:
        Path(options.out).write_text(f"# What a run adds to its bare step\n\n{result}\n")


if __name__ == "__main__":
    main()
