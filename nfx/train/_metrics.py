"""Where metrics are written: a file of JSON lines, and TensorBoard if it is installed."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from nfx.train._records import read_records, Records


_FILE = "metrics.jsonl"


class MetricsLog:
    """Writes records to `metrics.jsonl`, and their scalars to TensorBoard if it is installed.

    Opened at a step, it forgets what an interrupted run wrote beyond it: the file reads as if
    nothing had been interrupted. Use it as a context manager.

    Attributes:
        latest: The latest value of each metric.
    """

    def __init__(self, directory: str | Path, *, step: int, writes: bool = True):
        """Opens the log of a run.

        Args:
            directory: The run directory.
            step: The step that training goes on from.
            writes: Whether to write, or only to know the latest: of several processes one writes.
        """
        directory = Path(directory)
        path, keep = directory / _FILE, lambda record: record["step"] <= step
        self._records = Records(path, keep=keep, writes=writes)
        self.latest = {
            name: value for record in self._records.kept for name, value in record.items()
        }
        self._board = None
        if writes and importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter  # an extra, and slow to import

            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._records.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, metrics: Mapping[str, float | list[float]]) -> None:
        """Appends one record: of scalars, and of vectors to four digits."""
        self.latest.update(metrics)
        record = {name: _shortened(value) for name, value in metrics.items()}
        self._records.append({"step": step, **record})
        if self._board is not None:
            for name, value in metrics.items():
                if not isinstance(value, list):
                    self._board.add_scalar(name, value, step)


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """Returns the records of a run directory's `metrics.jsonl`, in order."""
    return read_records(Path(directory) / _FILE)


def _shortened(value: float | list[float]) -> float | list[float]:
    return [float(f"{x:.4g}") for x in value] if isinstance(value, list) else value
