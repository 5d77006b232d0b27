"""What a run leaves on disk: its configuration, its metrics, its result."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nfx._files import write_whole
from nfx.train._errors import RunDirectoryError


# What a run that has saved nothing may have written beside its configuration.
_UNSAVED = ("metrics.jsonl", "bad_images*.jsonl", "nonfinite.jsonl", "hang-*.txt", "wandb-id.txt")


def has_begun(path: str | Path) -> bool:
    """Whether a directory holds a run."""
    return (Path(path).expanduser() / "config.json").exists()


def check_free(path: str | Path) -> None:
    """Refuses a directory that a new run cannot have.

    It may hold a run that was refused or stopped before it had saved anything.

    Raises:
        RunDirectoryError: If it holds another run, or the `config.json` of something else.
    """
    path = Path(path).expanduser().absolute()
    if not has_begun(path):
        return
    try:
        _read_config(path)
    except (OSError, ValueError, TypeError) as error:
        raise RunDirectoryError(
            f"{str(path)!r} has a config.json that is of no run, and a run would write its own. "
            "Choose another --run-dir."
        ) from error
    if _has_saved(path):
        raise RunDirectoryError(
            f"{str(path)!r} holds a run already. Resume it with --resume, or choose another "
            "--run-dir."
        )


def _has_saved(path: Path) -> bool:
    """Whether a run has saved a checkpoint, or the metrics of a step."""
    metrics = path / "metrics.jsonl"
    logged = metrics.exists() and metrics.stat().st_size > 0
    return logged or any(each.name.isdecimal() for each in (path / "checkpoints").glob("*"))


def _read_config(path: Path) -> dict[str, Any]:
    config = dict(json.loads((path / "config.json").read_text()))
    if "recipe" not in config:
        raise ValueError("it has no recipe")
    return config


class RunDirectory:
    """The files of one run.

    Attributes:
        path: The directory.
        config: `config.json`, as given when the run was created.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]):
        """Wraps a directory that exists; use `create` or `open`."""
        self.path = path
        self.config = config

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> "RunDirectory":
        """Starts a new run, in the place of one that has saved nothing.

        Raises:
            RunDirectoryError: If the directory is not free, or cannot be written.
        """
        path = make_directory(path)
        with _making(path):
            if has_begun(path):
                for file in (file for name in _UNSAVED for file in path.glob(name)):
                    file.unlink()
            write_whole(path / "config.json", _as_json(config))
        return cls(path, config)

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """Opens an existing run.

        Raises:
            RunDirectoryError: If there is none, or its configuration cannot be read.
        """
        path = Path(path).expanduser().absolute()
        try:
            config = _read_config(path)
        except (OSError, ValueError, TypeError) as error:
            raise RunDirectoryError(
                f"{str(path)!r} is not a run directory: its config.json cannot be read "
                f"({getattr(error, 'strerror', None) or error}). Give a directory that `nfx train` "
                "printed."
            ) from error
        return cls(path, config)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    @property
    def result(self) -> Mapping[str, Any]:
        """`result.json`; empty if the run has not ended.

        Raises:
            RunDirectoryError: If it is damaged.
        """
        path = self.path / "result.json"
        return read_object(path, path.read_bytes()) if path.exists() else {}

    def write_text(self, name: str, content: str) -> None:
        """Writes a text file, whole or not at all."""
        write_text(self.path / name, content)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes `result.json`, whole or not at all."""
        self.write_text("result.json", _as_json(result))

    def remove_result(self) -> None:
        """Removes `result.json`: it is not that of a run that goes on."""
        path = self.path / "result.json"
        with writing(path):
            path.unlink(missing_ok=True)


def make_directory(path: str | Path) -> Path:
    """Makes a directory for a new run, if it is not there.

    Raises:
        RunDirectoryError: If the directory is not free, or cannot be written.
    """
    path = Path(path).expanduser().absolute()
    check_free(path)
    with _making(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def _making(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(
            f"Cannot write a run into {str(path)!r} ({error}). Choose another --run-dir."
        ) from error


def read_object(path: Path, text: bytes, line: int | None = None) -> dict[str, Any]:
    """Parses what a file of a run says, as JSON.

    Args:
        path: The file.
        text: All of it, or one line.
        line: The number of the line, from 1.

    Raises:
        RunDirectoryError: If that is damaged.
    """
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        where, what = (f" in line {line}", "that line") if line else ("", "it")
        raise RunDirectoryError(
            f"{str(path)!r} is damaged{where} ({error}). Put the file back from a copy, or remove "
            f"{what}."
        ) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of a file that cannot be written which it is, why, and what to do.

    Raises:
        RunDirectoryError: In the place of what the system raises.
    """
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(
            f"{str(path)!r} cannot be written ({error.strerror or error}). Make room there and see "
            "that it can be written, then try again; a run goes on with --resume."
        ) from error


def write_text(path: Path, content: str) -> None:
    """Writes a text file that is never seen half-written.

    Raises:
        RunDirectoryError: If it cannot be written.
    """
    with writing(path):
        write_whole(path, content)


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
