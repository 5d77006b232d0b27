"""`nfx compile`."""

import dataclasses
import functools as ft
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console

from nfx.aot import diff_table, read_report, report_table
from nfx.cli._parse import parse
from nfx.recipes import compile_model, CompileOptions, plan_model
from nfx.train import plan_tables, timed


@dataclasses.dataclass(frozen=True)
class CompileCommand:
    """Compile a model's training step or inference, and report what the compiler says of it.

    Nothing is allocated, no image is read, and nothing is trained: operations, bytes, memory of
    each device, collectives, size of the program, seconds to compile. The seconds are always those
    of a compiler: the cache of compiled programs is not used.

    Attributes:
        model: A name that `nfx models` lists; with --recipe it may be left out.
        options: What to compile, and how.
        plan: Compile nothing: print where on the mesh each leaf of the state lives, and what the
            devices tell each other in a step. The devices need not be there.
        compare: A report that --json printed, to print what differs from it.
        json: Print JSON.
    """

    model: Annotated[str, tyro.conf.Positional] = ""
    options: Annotated[CompileOptions, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=CompileOptions
    )
    plan: bool = False
    compare: str = ""
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and compiles."""
    command = parse(CompileCommand, "nfx compile", arguments)
    if command.plan:
        return _print_plan(command)
    before = read_report(command.compare) if command.compare else None
    say = ft.partial(print, file=sys.stderr, flush=True)
    report = compile_model(
        command.model, command.options, progress=ft.partial(timed, say=say)
    ).report
    tables = Console(stderr=command.json)  # standard output is for the JSON alone
    if command.json:
        print(report.to_json())
    else:
        tables.print(report_table(report))
    if before is not None:
        tables.print(diff_table(before, report))
    return 0


def _print_plan(command: CompileCommand) -> int:
    if command.options.program != "train" or command.compare:
        raise ValueError(
            "--plan is of the training step, and compares nothing: leave out --program and "
            "--compare."
        )
    plan = plan_model(command.model, command.options)
    if command.json:
        print(plan.to_json())
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(*plan_tables(plan), sep="\n")
    return 0
