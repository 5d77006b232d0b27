"""How a person names a checkpoint of a run: RUN, RUN@STEP, RUN@best."""

import re
from pathlib import Path
from typing import NamedTuple

from nfx.checkpoint import Which


class SavedRun(NamedTuple):
    """A run directory and one of its checkpoints.

    Attributes:
        path: The directory.
        step: Which checkpoint; None for the latest.
    """

    path: Path
    step: Which


def find_run(what: str | Path) -> SavedRun | None:
    """Returns the directory and the checkpoint that a text names; None if it names no directory."""
    path = Path(what).expanduser()
    if path.is_dir():
        return SavedRun(path, None)
    match = re.fullmatch(r"(.+)@(best|\d+)", str(path))
    if match is None or not Path(match[1]).is_dir():
        return None
    return SavedRun(Path(match[1]), "best" if match[2] == "best" else int(match[2]))
