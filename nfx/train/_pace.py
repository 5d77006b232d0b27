"""How fast a run goes, and what holds it up."""

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from nfx.data import Batch


class Pace(NamedTuple):
    """How training went since the metrics were last looked at; each machine has its own.

    Attributes:
        seconds_per_step: Wall-clock time of a step, without evaluations and saves.
        data_wait_share: For which share of that time the devices may have waited for images: the
            time that the next batch took to come while the step before it had ended already.
        memory_bytes: The most memory that one device of this process has held so far; where
            devices do not say, as CPUs, the most that the process has.
    """

    seconds_per_step: float
    data_wait_share: float
    memory_bytes: int


def without_pace(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of a record of metrics is the same whenever and wherever it is computed."""
    return {name: value for name, value in record.items() if name not in Pace._fields}


class Stopwatch:
    """Measures the pace from one look at the metrics to the next."""

    def __init__(self, step: int):
        """Begins after a step."""
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begins anew after a step."""
        self._began, self._step, self._waited = time.monotonic(), step, 0.0

    def next_batch(self, batches: Iterator[Batch], before: Mapping[str, Any]) -> Batch:
        """Returns the next batch, and counts the time if a device may have waited for it.

        Args:
            batches: The batches.
            before: What the step before gives once it has ended; the host runs ahead of it.
        """
        asked = time.monotonic()
        batch = next(batches)
        if all(map(_has_ended, before.values())):
            self._waited += time.monotonic() - asked
        return batch

    def pace(self, step: int) -> Pace:
        """Returns the pace up to a step that has ended."""
        seconds = time.monotonic() - self._began
        share = self._waited / max(seconds, 1e-9)
        return Pace(seconds / max(step - self._step, 1), share, _memory_bytes())


def _has_ended(value: Any) -> bool:
    """Whether a value is computed, not only promised."""
    return not hasattr(value, "is_ready") or value.is_ready()


def _memory_bytes() -> int:
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [found["peak_bytes_in_use"] for found in stats if "peak_bytes_in_use" in found]
    return max(peaks) if peaks else _process_bytes()


def _process_bytes() -> int:
    try:
        import resource
    except ImportError:  # not a Unix
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest
