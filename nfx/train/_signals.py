"""Stopping when a signal asks for it: at the end of a step, or at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import jax

from nfx.train._errors import exit_code
from nfx.train._processes import any_process


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether a signal has asked the process to stop.

    Attributes:
        signal: The first that came, or None.
        has_work: Whether there is something to save first. Until then, a signal ends the process
            at once.
    """

    def __init__(self) -> None:
        """Starts with no signal and nothing to save."""
        self.signal: signal.Signals | None = None
        self.has_work = False

    def agreed(self, *, together: bool) -> bool:
        """Whether to stop here; of several processes either all do or none.

        Args:
            together: Whether all processes are here at this moment; only then they ask each
                other.
        """
        asked = self.signal is not None
        if jax.process_count() == 1:
            return asked
        return together and any_process(asked)

    def take(self, number: int) -> None:
        """Takes a signal: notes it, or ends the process if there is nothing to wait for."""
        received = signal.Signals(number)
        if self.signal is None and self.has_work:
            self.signal = received
            _say(f"{received.name}: stopping once a checkpoint is saved. Again to exit at once.")
            return
        what = "before there was anything to save" if self.signal is None else "again"
        _say(f"{received.name} {what}: exiting at once; what was written is kept.")
        _show_cursor()
        os._exit(exit_code(received))


@contextlib.contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Lets SIGTERM and SIGINT be taken by a request, in place of what they do otherwise.

    One that is ignored stays so, as SIGINT is of what a shell starts with `&`.

    A thread takes them, so that they count while the main thread compiles or waits for a device,
    where Python would not run a handler. Outside the main thread nothing is changed: only there
    signals can be handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        watcher = threading.Thread(target=_watch, args=(ours, request), daemon=True)
        watcher.start()
        before_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        taken = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, _leave_to_thread) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)
            theirs.shutdown(socket.SHUT_WR)
            watcher.join()


def _watch(source: socket.socket, request: StopRequest) -> None:
    while numbers := source.recv(64):
        for number in numbers:
            if number in _SIGNALS:
                request.take(number)


def _leave_to_thread(number: int, frame: object) -> None:
    """Does nothing: the thread reads the number."""


def _show_cursor() -> None:
    """A bar of progress hides it, and is not there to show it again."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout.isatty():
            print("\x1b[?25h", end="", flush=True)  # noqa: T201


def _say(message: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody may read it any more
        print(f"\nnfx: {message}", file=sys.stderr, flush=True)  # noqa: T201 (a display may be gone)
