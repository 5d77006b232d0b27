"""Processes that live and die together: started, watched, and stopped as one."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, NamedTuple


_POLL_SECONDS = 0.1

# How long to wait for the last words of a process that has ended; what it started may still hold
# its output open.
_RELAY_SECONDS = 1

# What a process ends with that SIGINT or SIGTERM has stopped: by itself, or while it imported
# libraries, when the system ends it. The others stop with it.
STOPPED_CODES = (130, 143, -signal.SIGINT, -signal.SIGTERM)

# How long processes have to end when one was stopped: they have saved what it has, or else what
# they wait for will never come.
_STOPPED_GRACE = 10

# How long processes have to say what went wrong when one has failed. What they compute together
# is lost, and what they wait for may never come.
_FAILURE_GRACE = 1


class Command(NamedTuple):
    """What to run.

    Attributes:
        arguments: The program and its arguments.
        environment: All of its environment.
    """

    arguments: Sequence[str]
    environment: dict[str, str]


def run_together(commands: Sequence[Command], *, grace: float) -> int:
    """Runs commands until all have ended well, or one has not: then the others are stopped.

    One that was stopped by a signal lets the others end too before that.

    The first writes where this process does, and the others to its standard error, each line
    with the command's number before it. Whatever ends this function, none of them is left.

    Args:
        commands: What to run.
        grace: Seconds that processes have to end if this function is interrupted.

    Returns:
        Zero; or the code of the first command that was seen to end otherwise, negative if that
        was by a signal.
    """
    processes: list[subprocess.Popen[bytes]] = []
    relays: list[threading.Thread] = []
    try:
        for number, command in enumerate(commands):
            processes.append(_start(number, command))
            relays += _relay_output(number, processes[-1])
        print(f"nfx launch: processes {', '.join(str(p.pid) for p in processes)}", flush=True)
        code = _watch(processes)
        if code in STOPPED_CODES:
            _wait(processes, min(grace, _STOPPED_GRACE))
        grace = min(grace, _FAILURE_GRACE)
        return code
    finally:
        stop(processes, grace=grace)
        for relay in relays:
            relay.join(_RELAY_SECONDS)


def stop(processes: Sequence[subprocess.Popen[bytes]], *, grace: float) -> None:
    """Asks processes to end, and kills those that have not after `grace` seconds."""
    try:
        for process in processes:
            process.terminate()
        _wait(processes, grace)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Waits until all have ended, for so long at most."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(p.poll() is None for p in processes):
        time.sleep(_POLL_SECONDS)


def _start(number: int, command: Command) -> subprocess.Popen[bytes]:
    """Starts a command in a group of its own, so that Ctrl-C at a terminal is ours to pass on."""
    return subprocess.Popen(
        command.arguments,
        env=command.environment,
        start_new_session=True,
        stdout=subprocess.PIPE if number else None,
        stderr=subprocess.STDOUT if number else None,
    )


def _relay_output(number: int, process: subprocess.Popen[bytes]) -> list[threading.Thread]:
    """Starts to pass on what a process says, if that is not what the first one says."""
    if process.stdout is None:
        return []
    thread = threading.Thread(target=_relay, args=(number, process.stdout), daemon=True)
    thread.start()
    return [thread]


def _relay(number: int, output: IO[bytes]) -> None:
    with output:
        for line in output:
            if line.startswith(b"[Gloo] Rank"):
                continue  # a line from every device that finds the others
            sys.stderr.write(f"[{number}] {line.decode(errors='replace')}")
            sys.stderr.flush()


def _watch(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [process.poll() for process in processes]
        failed = [(number, code) for number, code in enumerate(codes) if code]
        if failed:
            number, code = failed[0]
            print(f"nfx launch: process {number} ended with code {code}", flush=True)
            return code
        if all(code == 0 for code in codes):
            return 0
        time.sleep(_POLL_SECONDS)
