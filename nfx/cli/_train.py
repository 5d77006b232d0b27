"""`nfx train`."""

import dataclasses
import functools as ft
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from nfx.aot import report_table
from nfx.cli._parse import parse
from nfx.cli._peek import peek
from nfx.recipes import (
    compile_recipe,
    CompileOptions,
    get_recipe,
    open_recipe_sources,
    options_from_config,
    read_recipe,
    Recipe,
    recipe_from_config,
    recipe_to_toml,
    RunOptions,
    starting_recipe,
    train,
)
from nfx.train import (
    initialize_processes,
    is_first_process,
    ProcessOptions,
    RunDirectory,
    stop_on_signals,
    StopRequest,
    timed,
    TrainingStopped,
)


_DESCRIPTION = """Train a normalizer-free network.

Without options it trains a small NFNet on the photos of clothes that nfx carries. Options change
the recipe; --recipe chooses the one to start from, of those that `nfx recipes` lists. With --data
DIR that is "folder". A run writes config.json, recipe.toml, metrics.jsonl, checkpoints/ and
result.json into its run directory, and can be stopped at any time and resumed with --run-dir DIR
--resume.
"""


@dataclasses.dataclass(frozen=True)
class TrainCommand:
    """Arguments of `nfx train`.

    Attributes:
        recipe: The recipe to start from: see `nfx recipes`.
        recipe_file: A file of TOML with a recipe, to start from instead: `nfx recipes NAME` prints
            one.
        dry_run: Train nothing and write nothing: print the recipe as it is with all options, and
            what the compiler says of its training step. No data need be named: there are a
            thousand classes then.
        hyperparameters: What to train, on what, and how.
        run: How to run it; the result does not depend on it.
        processes: Which of several processes this is.
    """

    recipe: str
    recipe_file: str
    dry_run: bool
    hyperparameters: Annotated[Recipe, tyro.conf.arg(name="")]
    run: Annotated[RunOptions, tyro.conf.arg(name="")]
    processes: Annotated[ProcessOptions, tyro.conf.arg(name="")]


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and trains."""
    name, recipe, options = _starting_point(arguments)
    command = parse(
        TrainCommand,
        "nfx train",
        arguments,
        description=_DESCRIPTION,
        default=TrainCommand(name, "", False, recipe, options, ProcessOptions()),
    )
    stop = StopRequest()
    try:
        with stop_on_signals(stop):
            initialize_processes(command.processes)
            if command.dry_run:
                return _dry_run(command)
            train(command.hyperparameters, command.run, name=command.recipe, stop=stop)
    except TrainingStopped as stopped:
        print(f"nfx: {stopped}", file=sys.stderr)
        return stopped.exit_code
    return 0


def _dry_run(command: TrainCommand) -> int:
    recipe, classes = command.hyperparameters, None
    speaks = is_first_process()
    out = Console(quiet=not speaks)
    write = ft.partial(out.print, highlight=False, markup=False, soft_wrap=True)
    write(recipe_to_toml(recipe))
    seen = recipe.steps * recipe.batch_size
    write(f"# {recipe.steps:,} steps of {recipe.batch_size:,}: {seen:,} images")
    if recipe.data:
        train = open_recipe_sources(recipe).train
        classes = len(train.class_names)
        write(f"# {seen / len(train):.1f} epochs of {len(train):,} images of {classes:,} classes")
    options = CompileOptions(mesh=command.run.mesh, num_classes=classes)
    say = Console(stderr=True, quiet=not speaks).print
    program = compile_recipe(recipe, options, progress=ft.partial(timed, say=say))
    out.print(report_table(program.report))
    return 0


def _starting_point(arguments: Sequence[str]) -> tuple[str, Recipe, RunOptions]:
    """What the options change: the resumed run's recipe and options, or a recipe by its name.

    Without a name it is that of the data.
    """
    options = (
        ["--recipe"],
        ["--recipe-file", "--recipe_file"],
        ["--data"],
        ["--run-dir", "--run_dir"],
    )
    known = peek(arguments, *options, flags=["--resume"])
    if known.recipe_file and known.recipe:
        raise ValueError(
            '--recipe-file FILE and --recipe NAME: write recipe = "NAME" into the file.'
        )
    resumed = RunDirectory.open(known.run_dir) if known.resume and known.run_dir else None
    run = options_from_config(resumed.config) if resumed else RunOptions()
    if known.recipe_file:
        name = Path(known.recipe_file).stem
        return name, read_recipe(known.recipe_file, data=known.data), run
    if resumed and not known.recipe:
        return "resumed", recipe_from_config(resumed.config), run
    name = known.recipe or starting_recipe(known.data)
    return name, get_recipe(name), run
