"""`nfx report`."""

import dataclasses
import functools as ft
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from nfx._show import format_bytes
from nfx.checkpoint import Which
from nfx.cli._parse import parse
from nfx.recipes import find_run, report, SavedRun


@dataclasses.dataclass(frozen=True)
class ReportCommand:
    """Write a page about a run, which may be going on: one file of HTML that needs nothing else.

    Curves, what was clipped in which layer, the signal through the network before and after,
    throughput, confusions, and the worst mistakes as pictures.

    Attributes:
        run: The run directory (or RUN@STEP, RUN@best).
        output: Where to write it; report.html in the run directory by default.
        step: Step of the checkpoint that classifies the test images, or "best" for the best by
            test accuracy; the latest by default.
        data: Where the run's images are now, if not where they were.
        mesh: Devices to use, as in training: "fsdp=8" for a state that one has no memory for.
    """

    run: Annotated[str, tyro.conf.Positional]
    output: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    step: Which = None
    data: str = ""
    mesh: str = "data=all"


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and writes the page."""
    command = parse(ReportCommand, "nfx report", arguments)
    run = find_run(command.run) or SavedRun(Path(command.run), None)
    path = report(
        run.path,
        output=command.output,
        step=run.at(command.step),
        data=command.data,
        mesh=command.mesh,
        say=ft.partial(print, file=sys.stderr, flush=True),
    )
    print(f"{path} ({format_bytes(path.stat().st_size)}): open it in a browser.")
    return 0
