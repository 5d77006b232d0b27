"""How a person names a checkpoint of a run: RUN, RUN@STEP, RUN@best."""

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from nfx.checkpoint import CheckpointStore, Which
from nfx.train import RunDirectory


# How often to look at the checkpoints of a run that removes some while they are looked at.
_LOOKS = 5


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


def look_at(directory: RunDirectory) -> CheckpointStore:
    """Opens the checkpoints of a run to read them; the run may be going on."""
    for _ in range(_LOOKS - 1):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return CheckpointStore(directory.checkpoints, read_only=True)
    return CheckpointStore(directory.checkpoints, read_only=True)
