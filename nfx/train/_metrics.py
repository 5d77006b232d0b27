"""Where metrics are written: a file of JSON lines, and TensorBoard if it is installed."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from nfx.train._run_directory import write_text


class MetricsLog:
    """Writes records of scalars to `metrics.jsonl`, and to TensorBoard where tensorboardX is.

    Opened at a step, it forgets what an interrupted run wrote beyond it: the file reads as if
    nothing had been interrupted. Use it as a context manager.

    Attributes:
        latest: The latest value of each scalar.
    """

    def __init__(self, directory: str | Path, *, step: int):
        """Opens the log of a run.

        Args:
            directory: The run directory.
            step: The step that training goes on from.
        """
        directory = Path(directory)
        path = directory / "metrics.jsonl"
        records = _records_up_to(path, step)
        self.latest = {name: value for record in records for name, value in record.items()}
        write_text(path, "".join(json.dumps(record) + "\n" for record in records))
        self._file = path.open("a")
        self._board = None
        if importlib.util.find_spec("tensorboardX"):
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

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one record."""
        self.latest.update(scalars)
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)


def _records_up_to(path: Path, step: int) -> list[dict[str, Any]]:
    """The records of steps up to `step`; a line that was cut off belongs to a later one."""
    if not path.exists():
        return []
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    records = [json.loads(line) for line in whole]
    return [record for record in records if record["step"] <= step]
