"""A report of a run: one page that needs nothing else, neither network nor scripts."""

import importlib
from collections.abc import Callable
from pathlib import Path

from nfx._files import write_whole
from nfx.checkpoint import Which
from nfx.recipes._report._content import gather_report
from nfx.recipes._report._page import report_page
from nfx.sharding import read_mesh
from nfx.train import RunDirectory


def report(
    run: str | Path,
    *,
    output: str | Path = "",
    step: Which = None,
    data: str = "",
    mesh: str = "data=all",
    say: Callable[[str], object] = lambda message: None,
) -> Path:
    """Writes a report of a run, which may be going on: one file of HTML.

    Args:
        run: The run directory.
        output: Where to write it, by default `report.html` in the run directory.
        step: The step of the checkpoint that classifies the test images, or "best" for the best
            by test accuracy; by default the latest.
        data: Where the run's images are now, if not where they were.
        mesh: Devices to use, as in training; any, whatever the run was trained on.
        say: Is told what is being done.

    Returns:
        Where it is.

    Raises:
        RunDirectoryError: If there is no such run.
        CheckpointError: If there is no checkpoint of the step that was asked for, or it is damaged.
        ValueError: If the report cannot be written there, or the images are not of the classes
            that the model knows.
    """
    importlib.import_module("matplotlib")  # an extra: if it is missing, that is said at once
    directory = RunDirectory.open(run)
    path = Path(output).expanduser() if output else directory.path / "report.html"
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(
            f"Cannot write a report to {str(path)!r}: give a file in a directory that there is."
        )
    found = gather_report(directory, read_mesh(mesh), step=step, data=data, say=say)
    page = report_page(found)
    try:
        write_whole(path, page)
    except OSError as error:
        raise ValueError(f"Cannot write the report to {str(path)!r}: {error.strerror}.") from error
    return path
