"""`nfx launch`. Without JAX, so that what watches over a run takes no time and no devices."""

import dataclasses
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nfx._checks import at_least
from nfx.cli._parse import parse
from nfx.cli._peek import peek
from nfx.cli._supervisor import Command, run_together, STOPPED_CODES


_NFX = (sys.executable, "-c", "from nfx.cli import main; raise SystemExit(main())")

# Seconds from asking a process to end until it is killed: time for a checkpoint.
_GRACE = 60

# The exit code of a command with wrong options: starting it again would not help.
_USAGE_ERROR = 2


@dataclasses.dataclass(frozen=True)
class LaunchCommand:
    """Train by several processes on this machine: nfx launch --hosts N -- train --run-dir DIR ...

    They find each other over the loopback interface, as hosts of a cluster do over its network.
    If one ends with an error or is killed, all are stopped and started again, and the run goes on
    from its last checkpoint. If SIGTERM or SIGINT stops one or this command, all save a checkpoint
    and end.

    Attributes:
        hosts: Processes to start.
        devices_per_host: Virtual CPU devices of each; without it, each has the devices that JAX
            finds.
        max_restarts: How many times to start again.
    """

    hosts: int
    devices_per_host: int | None = None
    max_restarts: int = 3

    def __post_init__(self) -> None:
        """Checks that every number is in its range.

        Raises:
            ValueError: If one is not.
        """
        at_least(1, hosts=self.hosts, devices_per_host=self.devices_per_host)
        at_least(0, max_restarts=self.max_restarts)


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments, starts the processes and restarts them.

    Raises:
        ValueError: If what follows `--` is not a `train` with a run directory, or that is taken.
    """
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parse(LaunchCommand, "nfx launch", arguments[:split])
    training = arguments[split + 1 :]
    _check_directory(training)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, _interrupt)  # all that ends us ends the processes
    for attempt in range(options.max_restarts + 1):
        if attempt:
            print(f"nfx launch: restart {attempt} of {options.max_restarts}", flush=True)
        command = [*training, "--resume-if-begun"] if attempt else training
        commands = process_commands(options, command, free_port(), os.environ)
        code = run_together(commands, grace=_GRACE)
        if code in (0, _USAGE_ERROR, *STOPPED_CODES):
            return code if code >= 0 else 128 - code  # as shells count
    print(f"nfx launch: giving up after {options.max_restarts} restarts", file=sys.stderr)
    return 1


def _check_directory(training: Sequence[str]) -> None:
    run_dir = peek(training, ["--run-dir", "--run_dir"]).run_dir
    if list(training[:1]) != ["train"] or not run_dir:
        raise ValueError(
            f"`nfx launch` got {' '.join(training) or 'nothing'!r} to run, and runs a training "
            "that it can resume: nfx launch --hosts N -- train --run-dir DIR ..."
        )
    continues = {"--resume", "--resume-if-begun"} & {word.replace("_", "-") for word in training}
    if not continues and (Path(run_dir).expanduser() / "config.json").exists():
        from nfx.train import check_free  # imports JAX, which watching processes does without

        check_free(run_dir)


def _interrupt(number: int, frame: object) -> None:
    """As Ctrl-C, with the signal's number to end with."""
    raise KeyboardInterrupt(signal.Signals(number))


def process_commands(
    options: LaunchCommand, training: Sequence[str], port: int, environment: Mapping[str, str]
) -> list[Command]:
    """Returns the command of each process.

    Args:
        options: How many processes, with what.
        training: `train` and its arguments.
        port: Where process 0 is to coordinate them.
        environment: The environment to start from.
    """
    coordinator = f"127.0.0.1:{port}"
    environment = {**environment, "JAX_COORDINATOR_BIND_ADDRESS": coordinator}
    if options.devices_per_host is not None:
        flag = f"--xla_force_host_platform_device_count={options.devices_per_host}"
        environment["JAX_PLATFORMS"] = "cpu"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flag}"  # the last counts
    together = ["--coordinator", coordinator, "--processes", str(options.hosts)]
    return [
        Command([*_NFX, *training, *together, "--process-id", str(number)], dict(environment))
        for number in range(options.hosts)
    ]


def free_port() -> int:
    """Returns a port of the loopback interface that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
