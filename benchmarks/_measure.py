"""What the benchmarks share: calling alternatives in turn, and tables."""

import os
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple


class Timing(NamedTuple):
    """Medians over the rounds, in seconds; CPU seconds are those of all threads."""

    cpu: float
    wall: float


def interleave(calls, rounds):
    """Calls each alternative once a round, and returns its `Timing`; a first round is not counted.

    Args:
        calls: Functions without arguments by name; each returns when its work is done.
        rounds: How many rounds count.
    """
    seconds = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            if round_:
                seconds[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: Timing(*map(median, zip(*each, strict=True))) for name, each in seconds.items()}


def markdown(header, rows):
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def machine(*packages):
    """One line: the processor, the cores that may be used, and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line for line in lines if line.startswith("model name")]
    name = models[0].partition(":")[2].strip() if models else platform.machine()
    cores = len(os.sched_getaffinity(0))
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    flags = os.environ.get("XLA_FLAGS", "")
    return (
        f"{name}, {cores} core{'s' if cores > 1 else ''}; Python {platform.python_version()}, "
        f"{versions}; XLA_FLAGS={flags!r}"
    )


def peak_gigabytes():
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
