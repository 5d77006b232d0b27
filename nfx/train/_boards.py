"""Where scalars are shown beside the run directory: TensorBoard, Weights & Biases."""

import contextlib
import importlib
import importlib.util
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nfx.train._errors import TrainingError
from nfx.train._run_directory import RunDirectory


# Seconds between waits until what TensorBoard shows is on disk, as tensorboardX has it.
_SYNC_SECONDS = 120


@runtime_checkable
class Board(Protocol):
    """Where scalars are shown."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows scalars of a step."""
        ...

    def close(self) -> None:
        """Writes what was not written yet."""
        ...


def open_boards(
    directory: RunDirectory,
    *,
    step: int,
    say: Callable[[str], object],
    wandb_project: str = "",
) -> list[Board]:
    """Opens what shows the scalars of a run.

    Args:
        directory: The run.
        step: The step that training goes on from: what TensorBoard has beyond it is forgotten.
        say: Is told if TensorBoard's files cannot be written; the run goes on without.
        wandb_project: Where Weights & Biases is to show them; nowhere if empty. TensorBoard does
            if tensorboardX is installed.

    Raises:
        ValueError: If there is a project and wandb is not installed.
        TrainingError: If it is, and does not begin.
    """
    boards: list[Board] = []
    if wandb_project:
        boards.append(_WeightsAndBiases(directory, wandb_project))
    if importlib.util.find_spec("tensorboardX"):
        boards.append(_TensorBoard(directory.path / "tensorboard", step, say))
    return boards


class _TensorBoard:
    """Writes its events in the caller's thread: one of tensorboardX would die of a full disk.

    Nobody would be told, and the run would wait for it for ever. Here it is said, once, and no more
    is written: a run can do without.
    """

    def __init__(self, directory: Path, step: int, say: Callable[[str], object]):
        self._directory, self._say = directory, say
        self._file: Any = None
        self._next_sync = 0.0
        self._fails = False
        self._attempt(lambda: self._open(step))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._attempt(lambda: self._write(step, scalars))

    def close(self) -> None:
        self._attempt(lambda: self._file.close())

    def _attempt(self, action: Callable[[], object]) -> None:
        """Does a part of writing, unless one has failed before."""
        if self._fails:
            return
        try:
            action()
        except OSError as error:
            self._fails = True
            self._say(
                f"WARNING: what TensorBoard shows cannot be written into {str(self._directory)!r} "
                f"({error.strerror or error}). The run goes on without; metrics.jsonl has it too."
            )
            if self._file:
                with contextlib.suppress(OSError):  # the same error again
                    self._file.close()

    def _open(self, step: int) -> None:
        from tensorboardX.record_writer import RecordWriter  # an extra, and slow to import

        self._directory.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = RecordWriter(str(self._directory / name))
        self._add(file_version="brain.Event:2")
        log = _protocol().SessionLog
        self._add(step=step + 1, session_log=log(status=log.START))

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in scalars.items():
            self._add(step=step, summary=scalar(name, value))
        if time.monotonic() >= self._next_sync:
            self._file.flush()
            self._next_sync = time.monotonic() + _SYNC_SECONDS

    def _add(self, **content: Any) -> None:
        event = _protocol().Event(wall_time=time.time(), **content)
        self._file.write(event.SerializeToString())


def _protocol() -> Any:
    return importlib.import_module("tensorboardX.proto.event_pb2")  # whose names no checker knows


class _WeightsAndBiases:
    """A run there is the run here, however often it is resumed: its name is kept in a file."""

    def __init__(self, directory: RunDirectory, project: str):
        wandb, identity = _wandb(), _kept_id(directory)
        try:
            self._run = wandb.init(
                project=project,
                id=identity,
                name=directory.path.name,
                dir=directory.path,
                config=dict(directory.config),
                resume="allow",
            )
        # It raises errors of many kinds: without a login, a network, such a project.
        except Exception as error:
            raise TrainingError(
                f"--wandb {project}: Weights & Biases cannot show {str(directory.path)!r} "
                f"({error}). Log in with `wandb login`, or set WANDB_MODE=offline and send the run "
                "with `wandb sync` later, or leave --wandb out; then go on with --resume."
            ) from error
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
