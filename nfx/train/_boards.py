"""Where scalars are shown beside the run directory: TensorBoard, Weights & Biases."""

import importlib
import importlib.util
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nfx.train._run_directory import RunDirectory


@runtime_checkable
class Board(Protocol):
    """Where scalars are shown."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows scalars of a step."""
        ...

    def close(self) -> None:
        """Writes what was not written yet."""
        ...


def open_boards(directory: RunDirectory, *, step: int, wandb_project: str = "") -> list[Board]:
    """Opens what shows the scalars of a run.

    Args:
        directory: The run.
        step: The step that training goes on from: what TensorBoard has beyond it is forgotten.
        wandb_project: Where Weights & Biases is to show them; nowhere if empty. TensorBoard does
            if tensorboardX is installed.

    Raises:
        ValueError: If there is a project and wandb is not installed.
    """
    boards: list[Board] = []
    if importlib.util.find_spec("tensorboardX"):
        boards.append(_TensorBoard(directory.path / "tensorboard", step))
    if wandb_project:
        boards.append(_WeightsAndBiases(directory, wandb_project))
    return boards


class _TensorBoard:
    def __init__(self, directory: Path, step: int):
        from tensorboardX import SummaryWriter  # an extra, and slow to import

        self._writer = SummaryWriter(str(directory), purge_step=step + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run there is the run here, however often it is resumed: its name is kept in a file."""

    def __init__(self, directory: RunDirectory, project: str):
        self._run = _wandb().init(
            project=project,
            id=_kept_id(directory),
            name=directory.path.name,
            dir=directory.path,
            config=dict(directory.config),
            resume="allow",
        )
        # Of a step that was taken again after a crash, the later values count.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({"step": step, **scalars})

    def close(self) -> None:
        self._run.finish()


def check_wandb(project: str) -> None:
    """Raises a `ValueError` if Weights & Biases is asked for and not installed."""
    if project:
        _wandb()


def _wandb() -> Any:
    try:
        return importlib.import_module("wandb")  # an extra, and slow to import
    except ModuleNotFoundError as error:
        raise ValueError(
            "To show a run in Weights & Biases, its package must be there: pip install 'nfx[wandb]'"
        ) from error


def _kept_id(directory: RunDirectory) -> str:
    path = directory.path / "wandb-id.txt"
    if not path.exists():
        directory.write_text(path.name, secrets.token_hex(8) + "\n")
    return path.read_text().strip()
