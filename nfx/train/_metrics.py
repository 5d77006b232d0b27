"""Where metrics are written: a file of JSON lines, and TensorBoard if it is installed."""

import importlib.util
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from nfx.train._run_directory import write_text


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
        path = directory / "metrics.jsonl"
        records = _records_up_to(path, step)
        self.latest = {name: value for record in records for name, value in record.items()}
        if writes:
            write_text(path, "".join(json.dumps(record) + "\n" for record in records))
        else:
            path = Path(os.devnull)
        self._file = path.open("a")
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
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, metrics: Mapping[str, float | list[float]]) -> None:
        """Appends one record: of scalars, and of vectors to four digits."""
        self.latest.update(metrics)
        record = {name: _shortened(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **record}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in metrics.items():
                if not isinstance(value, list):
                    self._board.add_scalar(name, value, step)


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """Returns the records of a run directory's `metrics.jsonl`, in order."""
    return _records_up_to(Path(directory) / "metrics.jsonl", math.inf)


def _shortened(value: float | list[float]) -> float | list[float]:
    return [float(f"{x:.4g}") for x in value] if isinstance(value, list) else value


def _records_up_to(path: Path, step: int | float) -> list[dict[str, Any]]:
    """The records of steps up to `step`; a line that was cut off belongs to a later one."""
    if not path.exists():
        return []
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    records = [json.loads(line) for line in whole]
    return [record for record in records if record["step"] <= step]
