"""`nfx checkpoints`."""

import dataclasses
import functools as ft
import json
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from nfx._show import format_bytes, plain_table, typed_path
from nfx.cli._parse import parse
from nfx.recipes import (
    average_checkpoints,
    damaged_checkpoints,
    list_checkpoints,
    Parameters,
    prunable_checkpoints,
    prune_checkpoints,
    SavedCheckpoint,
    verify_checkpoints,
)


_Steps = Annotated[tuple[int, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[STEP ...]")]


@dataclasses.dataclass(frozen=True)
class List:
    """List them: step, time, size on disk, test accuracy, which is the latest and the best.

    Attributes:
        json: Print JSON: one line a checkpoint.
    """

    json: bool = False


@dataclasses.dataclass(frozen=True)
class Verify:
    """Read them whole and compare every array with its checksum; exit with 1 if one is damaged.

    Attributes:
        steps: Which; all by default.
    """

    steps: _Steps = ()


@dataclasses.dataclass(frozen=True)
class Average:
    """Write the mean of the parameters of several as a file of weights.

    `nfx predict`, `nfx export` and `nfx train --init` read it: it says what it is of.

    Attributes:
        steps: Which; all by default.
        output: The file to write, which must end in .safetensors; average.safetensors in the run
            directory by default.
        parameters: The averaged parameters, by which a run is judged, or the raw ones.
        evaluate: Print how good the mean is on the test images, beside the single ones.
        mesh: Devices to evaluate on, as in training.
    """

    steps: _Steps = ()
    output: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    parameters: Parameters = "ema"
    evaluate: bool = True
    mesh: str = "data=all"


@dataclasses.dataclass(frozen=True)
class Prune:
    """Remove all but the latest, the best, and those that are named.

    Those that would be kept are read: damaged ones do not count, and stay where they are. Without
    --yes nothing is removed: what would be is printed. A run that is going on is refused.

    Attributes:
        keep: How many of the latest to keep.
        also: Steps of others to keep.
        yes: Remove them.
    """

    keep: int = 1
    also: Annotated[tuple[int, ...], tyro.conf.arg(metavar="STEP ...")] = ()
    yes: bool = False


_sub = ft.partial(tyro.conf.subcommand, prefix_name=False)


@dataclasses.dataclass(frozen=True)
class CheckpointsCommand:
    """List, verify, average or remove the checkpoints of a run. Without an action they are listed.

    Attributes:
        run: The run directory.
        action: What to do.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    action: (
        Annotated[List, _sub("list")]
        | Annotated[Verify, _sub("verify")]
        | Annotated[Average, _sub("average")]
        | Annotated[Prune, _sub("prune")]
    ) = dataclasses.field(default_factory=List)


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and does what they say."""
    command = parse(
        CheckpointsCommand,
        "nfx checkpoints",
        arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    match command.action:
        case List() as action:
            return _list(command.run, action)
        case Verify() as action:
            return _verify(command.run, action)
        case Average() as action:
            return _average(command.run, action)
        case Prune() as action:
            return _prune(command.run, action)


def _list(run: str, action: List) -> int:
    saved, damaged = list_checkpoints(run), damaged_checkpoints(run)
    if action.json:
        for checkpoint in saved:
            print(json.dumps({**checkpoint._asdict(), "saved": checkpoint.saved.isoformat()}))
        return 0
    Console().print(_table(saved))
    for step, path in damaged.items():
        print(f"Step {step:,} was damaged and is put aside: {path}")
    return 0


def _verify(run: str, action: Verify) -> int:
    problems = 0
    for step, problem in verify_checkpoints(run, action.steps):
        problems += bool(problem)
        print(f"step {step:>8,}  {problem or 'whole'}", flush=True)
    if problems:
        print(f"nfx: {problems:,} of the checkpoints cannot be used.", file=sys.stderr)
    return 1 if problems else 0


def _average(run: str, action: Average) -> int:
    result = average_checkpoints(
        run,
        action.output,
        steps=action.steps,
        parameters=action.parameters,
        evaluate=action.evaluate,
        mesh=action.mesh,
    )
    for step, evaluation in result.single.items():
        print(f"step {step:>8,}  accuracy {evaluation.accuracy:.2%}  loss {evaluation.loss:.4f}")
    if result.mean:
        print(f"their mean     accuracy {result.mean.accuracy:.2%}  loss {result.mean.loss:.4f}")
    print(f"\nName what is in images:  nfx predict {typed_path(result.path)} IMAGES")
    print(f"Train on from it:        nfx train --init {typed_path(result.path)} ...")
    return 0


def _prune(run: str, action: Prune) -> int:
    say = ft.partial(print, file=sys.stderr)
    prune = ft.partial(prune_checkpoints, say=say) if action.yes else prunable_checkpoints
    kept, others, damaged = prune(run, keep=action.keep, also=action.also)
    steps = lambda saved: ", ".join(f"{checkpoint.step:,}" for checkpoint in saved) or "none"
    size = sum(checkpoint.bytes for checkpoint in others)
    for step, words in damaged.items():
        print(f"Step {step:,} is damaged: {words}. It does not count, and is not removed.")
    print(f"Kept: {steps(kept)}")
    print(f"{'Removed' if action.yes else 'To be removed'}: {steps(others)} ({format_bytes(size)})")
    if others and not action.yes:
        print("Nothing was removed yet: add --yes.")
    return 0


def _table(saved: Sequence[SavedCheckpoint]) -> Table:
    table = plain_table()
    for column in ("step", "saved", "size", "test accuracy"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for checkpoint in saved:
        accuracy = checkpoint.test_accuracy
        table.add_row(
            f"{checkpoint.step:,}",
            f"{checkpoint.saved:%Y-%m-%d %H:%M:%S}",
            format_bytes(checkpoint.bytes),
            "" if accuracy is None else f"{accuracy:.2%}",
            ", ".join(mark for mark in ("latest", "best") if getattr(checkpoint, mark)),
        )
    return table
