"""A run from its first line to its result."""

import dataclasses
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from nfx.checkpoint import CheckpointStore, tree_digest
from nfx.optim import clipped_leaves
from nfx.recipes._build import abstract_batch, build_parts, check_mesh, Parts
from nfx.recipes._evaluation import compile_evaluation, evaluate_state, RunEvaluation
from nfx.recipes._feed import Feed
from nfx.recipes._opening import open_directory
from nfx.recipes._options import RunOptions
from nfx.recipes._recipe import Recipe
from nfx.sharding import make_mesh, parse_mesh_shape
from nfx.train import (
    abstract_state,
    BadImagesLog,
    Cadence,
    compile_for_all,
    create_state,
    Display,
    idle_axes,
    is_first_process,
    make_train_step,
    MetricsLog,
    number_of_first,
    plot_clipping,
    run_training,
    RunDirectory,
    state_specs,
    TrainState,
    wait_for_all,
)


def train(recipe: Recipe, options: RunOptions, *, name: str = "custom") -> RunDirectory:
    """Runs a recipe, or continues it, and writes the run directory.

    Of several processes all must call it, with a run directory that they share; one of them
    writes: see `nfx.train.initialize_processes`.

    Args:
        recipe: What to train.
        options: How.
        name: What to call the recipe in the name of a new run directory.

    Returns:
        The run directory, with `result.json` in it.

    Raises:
        ValueError: If recipe, options and machine do not fit together, or the run directory
            holds a run of another recipe.
        RunDirectoryError: If the run directory is taken, or there is none to resume.
        CheckpointError: If the last checkpoint is damaged.
        TrainingError: If training diverges.
    """
    began = time.monotonic()
    if recipe.data not in ("", "sample", "noise"):
        # So that the run can be continued and evaluated from anywhere.
        recipe = dataclasses.replace(recipe, data=str(Path(recipe.data).expanduser().absolute()))
    mesh = make_mesh(parse_mesh_shape(options.mesh, jax.device_count()))
    cadence = Cadence(
        steps=recipe.steps,
        log_every=options.log_every,
        evaluate_every=options.evaluate_every,
        checkpoint_every=options.checkpoint_every,
    )
    parts = build_parts(recipe)
    _check(recipe, options, parts, mesh)
    directory = open_directory(recipe, options, parts, name)
    writes = is_first_process()
    display = Display(recipe.steps, recipe.batch_size, quiet=not writes)
    display.say(_opening_words(recipe, parts, mesh, directory))

    with CheckpointStore(directory.checkpoints, keep=options.keep_checkpoints) as store:
        state = _first_state(parts, mesh, store, display)
        with (
            display,
            MetricsLog(directory.path, step=int(state.step), writes=writes) as log,
            closing(
                BadImagesLog(directory.path, share=recipe.bad_share, say=display.say)
            ) as bad_images,
        ):
            feed = Feed(parts.images, mesh, bad_images.take, options.loading)
            observer = _Observer(parts, feed, store, display, log, directory.config)
            state = _fit(recipe, parts, feed, cadence, state, observer)
            evaluation = observer.evaluation or observer.measure(state)
            store.wait()
    result = _result(state, evaluation, log, time.monotonic() - began)
    if writes:
        directory.write_result(result)
        plot_clipping(directory.path, clipped_leaves(state.opt_state))
    display.say(_closing_words(directory, result))
    wait_for_all("finished")
    return directory


class _Observer:
    """What a run does with its state as training goes: an `nfx.train.Observer`."""

    def __init__(
        self,
        parts: Parts,
        feed: Feed,
        store: CheckpointStore,
        display: Display,
        log: MetricsLog,
        config: Mapping[str, Any],
    ):
        self.display = display
        self.evaluation: RunEvaluation | None = None
        self._parts, self._feed, self._store, self._log = parts, feed, store, log
        self._config = config
        self._evaluation_step: jax.stages.Compiled | None = None

    def log(self, step: int, metrics: Mapping[str, Any], seconds_per_step: float) -> None:
        self._log.write(step, {**metrics, "seconds_per_step": seconds_per_step})
        self.display.update(step, metrics, seconds_per_step)

    def checkpoint(self, step: int, state: TrainState) -> None:
        self._store.save(step, state, self._config)

    def evaluate(self, step: int, state: TrainState) -> RunEvaluation:
        evaluation = self.measure(state)
        scalars = {
            "test_accuracy": evaluation.ema.accuracy,
            "test_accuracy_raw": evaluation.raw.accuracy,
            "test_loss": evaluation.ema.loss,
        }
        self._log.write(step, scalars)
        self.display.say(
            f"step {step:>6,}  loss {self._log.latest['loss']:.3f}  "
            f"test accuracy {evaluation.ema.accuracy:.1%} (raw {evaluation.raw.accuracy:.1%})"
        )
        self.evaluation = evaluation
        return evaluation

    def measure(self, state: TrainState) -> RunEvaluation:
        if self._evaluation_step is None:
            self._evaluation_step = compile_evaluation(state, self._parts, self._feed)
        return evaluate_state(self._evaluation_step, state, self._feed)


def _check(recipe: Recipe, options: RunOptions, parts: Parts, mesh: Mesh) -> None:
    """Refuses what cannot be trained, before anything is written."""
    if jax.process_count() > 1 and not options.run_dir:
        raise ValueError(
            f"This is one of {jax.process_count()} processes, and they share a run directory: give "
            "--run-dir DIR, the same to all, where all of them can read and write."
        )
    check_mesh(recipe, mesh)
    if recipe.batch_size > len(parts.images.train):
        raise ValueError(
            f"batch_size={recipe.batch_size} must be at most the {len(parts.images.train)} images "
            "to train on."
        )
    if options.keep_checkpoints < 1:
        raise ValueError(f"keep_checkpoints={options.keep_checkpoints} must be at least 1.")
    jax.eval_shape(parts.build_model)


def _fit(
    recipe: Recipe,
    parts: Parts,
    feed: Feed,
    cadence: Cadence,
    state: TrainState,
    observer: _Observer,
) -> TrainState:
    """Compiles the step and trains with it."""
    first_step = int(state.step)
    if first_step == recipe.steps:
        return state
    # Images are loaded while the step is compiled.
    batches = feed.training(recipe.batch_size, seed=recipe.seed, first_step=first_step)
    step = make_train_step(parts.optimizer, parts.preprocessing, feed.mesh, parts.observe)
    with observer.display.timed("Compiling the training step"):
        batch = abstract_batch(parts.images.train, recipe.batch_size, feed.mesh)
        compiled = compile_for_all(step, state, batch, parts.key, name="training step")
    return run_training(compiled, state, batches, parts.key, cadence, observer)


def _first_state(parts: Parts, mesh: Mesh, store: CheckpointStore, display: Display) -> TrainState:
    """The last checkpoint, or where there is none yet the state of step 0."""
    last = number_of_first(max(store.steps(), default=-1))
    if last >= 0:
        like = abstract_state(parts.build_model, parts.optimizer, mesh)
        state = store.restore(like, step=last)
        display.say(f"Resumed from the checkpoint of step {last:,}.")
        return state
    with display.timed("Initialising the parameters"):
        return jax.block_until_ready(create_state(parts.build_model, parts.optimizer, mesh))


def _result(
    state: TrainState, evaluation: RunEvaluation, log: MetricsLog, wall_seconds: float
) -> dict[str, Any]:
    """What a run came to: the content of `result.json`."""
    return {
        "test_accuracy": evaluation.ema.accuracy,
        "test_accuracy_raw": evaluation.raw.accuracy,
        "test_loss": evaluation.ema.loss,
        "train_loss": log.latest["last_loss"],
        "steps": int(state.step),
        "wall_seconds": wall_seconds,
        "params_digest": tree_digest(state.model),
    }


def _opening_words(recipe: Recipe, parts: Parts, mesh: Mesh, directory: RunDirectory) -> str:
    train, test = parts.images
    platform = mesh.devices.flat[0].platform
    model = jax.eval_shape(parts.build_model)
    idle = "".join(
        f"The axis {axis!r} of the mesh splits nothing of {recipe.model}: its devices all do the "
        "same.\n"
        for axis in idle_axes(state_specs(model, mesh), mesh)
    )
    return (
        f"Training {recipe.model} on {len(train):,} images of {len(train.class_names)} classes "
        f"({len(test):,} to test with): {recipe.steps:,} steps of {recipe.batch_size}, on "
        f"{mesh.size} {platform} device{'s' if mesh.size > 1 else ''}.\n"
        f"{idle}Run directory: {_shown(directory.path)}"
    )


def _closing_words(directory: RunDirectory, result: dict[str, Any]) -> str:
    path = _shown(directory.path)
    return (
        f"\nTest accuracy {result['test_accuracy']:.1%} in {result['wall_seconds']:.0f} s; "
        f"everything about the run is in {path}\n\n"
        f"Evaluate it again:      nfx evaluate {path}\n"
        f"Resume after a stop:    nfx train --run-dir {path} --resume\n"
        "Train on your images:   nfx train --data DIR    (DIR/train/CLASS/*.jpg and "
        "DIR/test/CLASS/*.jpg)\n"
        "Everything there is:    nfx train --help"
    )


def _shown(path: Path) -> Path:
    """The path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
