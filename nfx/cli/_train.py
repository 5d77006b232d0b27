"""`nfx train`."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from nfx.recipes import (
    get_recipe,
    Recipe,
    recipe_from_config,
    RECIPES,
    RunOptions,
    train,
)
from nfx.train import (
    initialize_processes,
    ProcessOptions,
    RunDirectory,
    stop_on_signals,
    StopRequest,
    TrainingStopped,
)


_DESCRIPTION = f"""Train a normalizer-free network.

Without options it trains a small NFNet on the photos of clothes that nfx carries. Options change
the recipe; --recipe chooses the one to start from: {", ".join(RECIPES)}. With --data DIR that is
"folder". A run writes config.json, metrics.jsonl, checkpoints/ and result.json into its run
directory, and can be stopped at any time and continued with --run-dir DIR --resume.
"""


@dataclasses.dataclass(frozen=True)
class TrainCommand:
    """Arguments of `nfx train`.

    Attributes:
        recipe: The recipe to start from.
        hyperparameters: What to train, on what, and how.
        run: How to run it; the result does not depend on it.
        processes: Which of several processes this is.
    """

    recipe: str
    hyperparameters: Annotated[Recipe, tyro.conf.arg(name="")]
    run: Annotated[RunOptions, tyro.conf.arg(name="")]
    processes: Annotated[ProcessOptions, tyro.conf.arg(name="")]


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and trains."""
    name, recipe = _starting_point(arguments)
    command = tyro.cli(
        TrainCommand,
        prog="nfx train",
        description=_DESCRIPTION,
        args=arguments,
        default=TrainCommand(name, recipe, RunOptions(), ProcessOptions()),
    )
    initialize_processes(command.processes)
    stop = StopRequest()
    try:
        with stop_on_signals(stop):
            train(command.hyperparameters, command.run, name=command.recipe, stop=stop)
    except TrainingStopped as stopped:
        print(f"nfx: {stopped}", file=sys.stderr)
        return stopped.exit_code
    return 0


def _starting_point(arguments: Sequence[str]) -> tuple[str, Recipe]:
    """The recipe whose fields the options change: named, the resumed run's, or by the data."""
    parser = argparse.ArgumentParser(prog="nfx train", add_help=False, allow_abbrev=False)
    for spellings in (("--recipe",), ("--data",), ("--run-dir", "--run_dir")):
        parser.add_argument(*spellings, default="", nargs="?", const="")
    parser.add_argument("--resume", action="store_true")
    known, _ = parser.parse_known_args(arguments)
    if known.resume and known.run_dir and not known.recipe:
        return "resumed", recipe_from_config(RunDirectory.open(known.run_dir).config)
    name = known.recipe or ("folder" if known.data not in ("", "sample") else "sample")
    return name, get_recipe(name)
