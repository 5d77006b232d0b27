"""Files that are there whole or not at all, and how to tell that they are the same."""

import hashlib
import os
from pathlib import Path


def write_whole(path: Path, text: str, temporary: Path) -> None:
    """Writes a text file so that it is there whole or not at all, even if the power fails.

    Args:
        path: The file.
        text: What to write.
        temporary: What to call it until it is whole, on the same file system.
    """
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
