"""How a person names a checkpoint of a run: RUN, RUN@STEP, RUN@best."""

import contextlib
from pathlib import Path
from typing import NamedTuple

from nfx.checkpoint import CheckpointError, CheckpointStore, VANISHED, Which
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

    def at(self, step: Which) -> Which:
        """Returns which checkpoint is meant, where an option may name one too.

        Raises:
            ValueError: If both name one.
        """
        if self.step is not None and step is not None:
            raise ValueError(
                f"{f'{self.path}@{self.step}'!r} and --step {step} both say which checkpoint: "
                "leave one of them out."
            )
        return self.step if step is None else step


def find_run(what: str | Path) -> SavedRun | None:
    """Returns the directory and the checkpoint that a text names; None if it names no directory.

    Raises:
        ValueError: If what is after the @ names no checkpoint.
        RunDirectoryError: The same, if what is before the @ is no run either.
    """
    path = Path(what).expanduser()
    if path.is_dir():
        return SavedRun(path, None)
    run, _, which = str(path).rpartition("@")
    if not run or not Path(run).is_dir() or path.exists():
        return None
    if which == "best":
        return SavedRun(Path(run), "best")
    if which.isdecimal():
        return SavedRun(Path(run), int(which))
    with look_at(RunDirectory.open(run)) as store:
        steps = ", ".join(map(str, store.steps())) or "none"
    raise ValueError(
        f"{str(what)!r} names no checkpoint: after the @ comes a step or 'best', not {which!r}. "
        f"{run!r} has the steps {steps}."
    )


def look_at(directory: RunDirectory) -> CheckpointStore:
    """Opens the checkpoints of a run to read them; the run may be going on.

    Raises:
        CheckpointError: If they cannot be read, or change all the time.
    """
    for _ in range(_LOOKS):
        with contextlib.suppress(*VANISHED):
            return CheckpointStore(directory.checkpoints, read_only=True)
    raise CheckpointError(
        f"The checkpoints in {str(directory.checkpoints)!r} change while they are looked at. Try "
        "again."
    )
