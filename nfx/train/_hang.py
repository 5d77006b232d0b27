"""Telling where a run hangs, if nothing has happened for long."""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from nfx.train._processes import process_suffix


_NAME = "hang"

# Of a standard error that nobody reads, that is closed, that is no file of the system, or none.
_BROKEN = (OSError, ValueError, AttributeError)

# How long to wait for the thread in the end: what it writes to may hang.
_PATIENCE_SECONDS = 5.0


class HangWatch:
    """Writes the stacks of all threads when nothing was reported for too long.

    It watches from the first report on and tells of each hang once; the run goes on waiting. Use it
    as a context manager.
    """

    def __init__(self, directory: Path, *, timeout: float, poll: float = 1.0):
        """Prepares to watch.

        Args:
            directory: Where the stacks are written, as `hang-TIME.txt`, beside standard error; by
                process `n` of several, from 1, as `hang-TIME-n.txt`.
            timeout: Seconds without a report that are taken for a hang; 0 to watch nothing.
            poll: Seconds between looks.
        """
        self._directory, self._timeout = directory, timeout
        self._suffix = process_suffix()  # now: to ask may hang as well
        self._poll = min(poll, timeout / 4)
        self._last: float | None = None  # no alarm while there is none
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="nfx hang watch")

    def __enter__(self) -> "HangWatch":
        if self._timeout:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ends.set()
        if self._timeout:
            self._thread.join(_PATIENCE_SECONDS)

    def report(self) -> None:
        """Takes note that something has got done."""
        self._last = time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Watches nothing meanwhile, as while something is compiled; the end is a report."""
        self._last = None
        yield
        self.report()

    def _watch(self) -> None:
        told: float | None = None
        while not self._ends.wait(self._poll):
            last = self._last
            if last is None or last == told or time.monotonic() - last <= self._timeout:
                continue
            told = last
            self._tell(time.monotonic() - last)

    def _tell(self, seconds: float) -> None:
        """Writes to standard error first: the directory may be what hangs."""
        path = self._directory / f"{_NAME}-{time.strftime('%Y%m%d-%H%M%S')}{self._suffix}.txt"
        words = f"nfx: no step has ended for {seconds:.0f} s; waiting on. Stacks of all threads:\n"
        with contextlib.suppress(*_BROKEN):
            _write_stacks(sys.stderr, f"\n{words}")
        with contextlib.suppress(*_BROKEN):
            with path.open("w") as file:
                _write_stacks(file, words)
            sys.stderr.write(f"nfx: they are in {str(path)!r} too.\n")


def hang_files(directory: Path) -> list[Path]:
    """Returns the files of stacks that the processes of a run have written."""
    return sorted(directory.glob(f"{_NAME}-*.txt"))


def _write_stacks(file: Any, words: str) -> None:
    file.write(words)
    file.flush()
    faulthandler.dump_traceback(file)
