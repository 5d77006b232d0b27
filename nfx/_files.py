"""Files that are there whole or not at all, how to tell that they are the same, and locks."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, IO


@contextlib.contextmanager
def replacing(path: Path, *, scratch: Path | None = None) -> Iterator[IO[bytes]]:
    """Opens a file to write that takes the place of `path` at the end, even if the power fails.

    Until then it has a name of its own, `.NAME.*.partial`, which only a process that is killed
    leaves behind. If the writing fails, `path` is as it was.

    Args:
        path: The file.
        scratch: The directory that it is in until it is whole, on the same file system; by default
            that of `path`.

    Yields:
        The open file.

    Raises:
        OSError: If it cannot be written.
    """
    partial = (scratch or path.parent) / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong is the error to tell
            partial.unlink(missing_ok=True)
        raise
    if os.name != "nt":  # Windows opens no directories
        sync(path.parent)


def write_whole(path: Path, text: str, *, scratch: Path | None = None) -> None:
    """Writes a text file so that it is there whole or not at all: see `replacing`."""
    with replacing(path, scratch=scratch) as file:
        file.write(text.encode())


def sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(file: IO[bytes]) -> None:
    """Locks an open file until it is closed, or its process ends.

    Raises:
        BlockingIOError: If another process holds the lock.
        OSError: If there are no locks on this file system, or none on this system.
    """
    try:
        import fcntl
    except ImportError as error:
        raise OSError("there are no such locks on this system") from error
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(document: Any) -> str:
    """Returns the SHA-256 of what JSON can hold, whatever its order and white space."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
