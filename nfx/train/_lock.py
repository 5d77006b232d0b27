"""A run directory belongs to one run at a time."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from nfx._files import lock
from nfx.train._errors import RunDirectoryError
from nfx.train._run_directory import writing


_FILE = "run.lock"


@contextlib.contextmanager
def lock_directory(directory: Path, *, say: Callable[[str], object]) -> Iterator[None]:
    """Keeps other processes from writing the same run. The lock dies with its process.

    Args:
        directory: The run directory.
        say: Is told if the file system has no locks; the run goes on without.

    Raises:
        RunDirectoryError: If another living process holds the lock, or its file cannot be opened.
    """
    path = directory / _FILE
    with writing(path):
        file = path.open("a+b", buffering=0)  # so that closing it has nothing left to write
    with file:
        try:
            lock(file)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().decode().strip() or "unknown"
            raise RunDirectoryError(
                f"{str(directory)!r} is in use by another process (process {holder}). Stop it or "
                "wait until it has ended, or choose another --run-dir."
            ) from error
        except OSError as error:
            say(
                f"{str(directory)!r} cannot be locked ({error.strerror or error}): take care that "
                "no other process trains there."
            )
        with contextlib.suppress(OSError):  # a full disk: who holds the lock is not said then
            file.truncate(0)
            file.write(f"{os.getpid()} on {socket.gethostname()}\n".encode())
        yield
