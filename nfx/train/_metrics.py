"""Where metrics are written: a file of JSON lines, and whatever else shows them."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from nfx.train._boards import Board
from nfx.train._records import read_records, Records


_FILE = "metrics.jsonl"


class MetricsLog:
    """Writes records to `metrics.jsonl`, and their scalars to boards.

    Opened at a step, it forgets what an interrupted run wrote beyond it: the file reads as if
    nothing had been interrupted. Use it as a context manager.

    Attributes:
        latest: The latest value of each metric.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        step: int,
        boards: Sequence[Board] = (),
        writes: bool = True,
    ):
        """Opens the log of a run.

        Args:
            directory: The run directory.
            step: The step that training goes on from.
            boards: What else shows scalars; they are closed with the log.
            writes: Whether to write, or only to know the latest: of several processes one writes.
        """
        directory = Path(directory)
        path, keep = directory / _FILE, lambda record: record["step"] <= step
        self._records = Records(path, keep=keep, writes=writes)
        self.latest = {
            name: value for record in self._records.kept for name, value in record.items()
        }
        self._boards = boards

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.ExitStack() as stack:  # all of them, whichever fails
            stack.callback(self._records.close)
            for board in self._boards:
                stack.callback(board.close)

    def write(self, step: int, metrics: Mapping[str, float | int | list[float]]) -> None:
        """Appends one record: of scalars, and of vectors to four digits."""
        self.latest.update(metrics, step=step)
        record = {name: _shortened(value) for name, value in metrics.items()}
        self._records.append({"step": step, **record})
        scalars = {name: value for name, value in metrics.items() if not isinstance(value, list)}
        for board in self._boards:
            board.write(step, scalars)

    def sync(self) -> None:
        """Waits until the records are on disk: before a checkpoint, which stands for them."""
        self._records.sync()


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """Returns the records of a run directory's `metrics.jsonl`, in order."""
    return read_records(Path(directory) / _FILE)


def _shortened(value: float | int | list[float]) -> float | int | list[float]:
    return [float(f"{x:.4g}") for x in value] if isinstance(value, list) else value
