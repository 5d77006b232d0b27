"""Records as lines of JSON in a file that may be cut off at any moment."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nfx.train._run_directory import read_object, write_text, writing


def read_records(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a file, without one that was cut off; none if there is no file.

    Raises:
        RunDirectoryError: If another line is damaged.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return [read_object(path, line, number) for number, line in enumerate(lines, start=1)]


class Records:
    """A file that records are appended to, each as soon as it is written.

    Attributes:
        kept: The records that were there when it was opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep: Callable[[Mapping[str, Any]], bool] = lambda record: True,
        writes: bool = True,
    ):
        """Opens a file, and forgets some of what an interrupted process wrote.

        Args:
            path: The file, which need not exist.
            keep: Which records to keep.
            writes: Whether to write, or only to read: of several processes one writes.

        Raises:
            RunDirectoryError: If it is damaged or cannot be written; so do the methods.
        """
        self.kept = [record for record in read_records(path) if keep(record)]
        self._path, self._writes = path, writes
        if writes:
            write_text(path, "".join(json.dumps(record) + "\n" for record in self.kept))
        with writing(path):
            self._file = (path if writes else Path(os.devnull)).open("a")

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes a record."""
        with writing(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Waits until what was written is on disk, where a power cut leaves it."""
        if self._writes:
            with writing(self._path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        with writing(self._path):
            self._file.close()
