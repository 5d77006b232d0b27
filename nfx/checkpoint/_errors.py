"""What can be wrong with checkpoints."""

import contextlib
import re
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
    """A file of a checkpoint that cannot be read now; it may still be intact."""


# What is raised of files that were there a moment ago, as those that a run removes.
VANISHED = (FileNotFoundError, NotADirectoryError)


@contextlib.contextmanager
def opening(directory: Path, *, read_only: bool) -> Iterator[None]:
    """Turns an `OSError` on opening a directory of checkpoints into a `CheckpointError`.

    That says what to do.

    What vanished is raised as it is where one only looks: one may look again.
    """
    try:
        yield
    except OSError as error:
        if read_only and isinstance(error, VANISHED):
            raise
        what = "read" if read_only else "kept"
        raise CheckpointError(
            f"Checkpoints cannot be {what} in {str(directory)!r} ({error.strerror or error}). See "
            "to the room and the permissions there, then try again."
        ) from error


@contextlib.contextmanager
def readable(directory: Path, step: int) -> Iterator[None]:
    """Turns an error on reading a checkpoint's files into a `CheckpointError`.

    That says what to do.
    """
    try:
        yield
    except (UnreadableError, OSError, MemoryError) as error:
        raise CheckpointError(
            f"The checkpoint of step {step} in {str(directory)!r} cannot be read: "
            f"{first_line(error)}. That need not be damage: see to the permissions, the disk and "
            "the memory, and try again. If it stays so, move the directory of that step elsewhere."
        ) from error


# What TensorStore and XLA say, in bare exceptions, of what may pass.
_MAY_PASS = re.compile("RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|Error reading|of memory")


def may_pass(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says nothing about the files that were read."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return any(
        isinstance(each, OSError | MemoryError) or _MAY_PASS.search(str(each)) for each in causes
    )


def first_line(error: Exception) -> str:
    """What an error says, without its middle if that is long: the cause often stands at the end."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:80]} ... {line[-120:]}"
