"""Telling where a run hangs, if nothing has happened for long."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType


class HangWatch:
    """Writes the stacks of all threads when nothing was reported for too long.

    It watches from the first report on and tells of each hang once; the run goes on waiting. Use it
    as a context manager.
    """

    def __init__(self, directory: Path, *, timeout: float, poll: float = 1.0):
        """Prepares to watch.

        Args:
            directory: Where the stacks are written, as `hang-TIME-PROCESS.txt`, beside standard
                error.
            timeout: Seconds without a report that are taken for a hang; 0 to watch nothing.
            poll: Seconds between looks.
        """
        self._directory, self._timeout = directory, timeout
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
            self._thread.join()

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
        name = f"hang-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        path = self._directory / name
        words = f"nfx: no step has ended for {seconds:.0f} s; waiting on. Stacks of all threads:\n"
        sys.stderr.write(f"\n{words}")
        sys.stderr.flush()
        with contextlib.suppress(OSError, ValueError):  # not a file of the system
            faulthandler.dump_traceback(sys.stderr)
        with contextlib.suppress(OSError), path.open("w") as file:
            file.write(words)
            file.flush()
            faulthandler.dump_traceback(file)
        sys.stderr.write(f"nfx: they are in {str(path)!r} too.\n")
