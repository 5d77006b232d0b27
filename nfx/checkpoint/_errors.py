"""What can be wrong with checkpoints."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class CheckpointError(Exception):
    """A checkpoint that is missing, of something else, damaged, or that cannot be read."""


class DamagedError(CheckpointError):
    """A checkpoint that is not what was saved.

    Attributes:
        found: What is wrong with it, in a sentence.
    """

    def __init__(self, found: str, advice: str):
        """Takes what is wrong, and what to do unless somebody does it."""
        super().__init__(f"{found} {advice}")
        self.found = found


class UnreadableError(Exception):
    """A file of a checkpoint that may be as it was written, and cannot be read now."""


@contextlib.contextmanager
def opening(directory: Path) -> Iterator[None]:
    """Says of a directory of checkpoints that cannot be opened what to do."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"Checkpoints cannot be kept in {str(directory)!r} ({error.strerror or error}). See to "
            "the room and the permissions there, then try again."
        ) from error


@contextlib.contextmanager
def readable(directory: Path, step: int) -> Iterator[None]:
    """Says of a checkpoint whose files cannot be read what to do."""
    try:
        yield
    except (UnreadableError, OSError, MemoryError) as error:
        raise CheckpointError(
            f"The checkpoint of step {step} in {str(directory)!r} cannot be read: "
            f"{first_line(error)}. That need not be damage: see to the permissions, the disk and "
            "the memory, and try again. If it stays so, move the folder of that step elsewhere."
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, without its middle if that is long: the cause often stands at the end."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:80]} ... {line[-120:]}"
