"""What a run leaves on disk: its configuration, its metrics, its result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfx._files import write_whole


class RunDirectoryError(Exception):
    """A run directory that is missing, taken, or of another run."""


def has_begun(path: str | Path) -> bool:
    """Whether a directory holds a run."""
    return (Path(path) / "config.json").exists()


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
        """Starts a new run.

        Raises:
            RunDirectoryError: If the directory holds a run already.
        """
        path = Path(path).absolute()
        if has_begun(path):
            raise RunDirectoryError(
                f"{str(path)!r} holds a run already. Continue it with --resume, or choose another "
                "--run-dir."
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "config.json", config)
        except OSError as error:
            raise RunDirectoryError(
                f"Cannot write a run into {str(path)!r} ({error}). Choose another --run-dir."
            ) from error
        return cls(path, config)

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """Opens an existing run.

        Raises:
            RunDirectoryError: If there is none, or its configuration cannot be read.
        """
        path = Path(path).absolute()
        try:
            config = dict(json.loads((path / "config.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise RunDirectoryError(
                f"{str(path)!r} is not a run directory: its config.json cannot be read ({error}). "
                "Give the directory that `nfx train` printed, or start a run without --resume."
            ) from error
        return cls(path, config)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    @property
    def result(self) -> Mapping[str, Any]:
        """`result.json`; empty if the run has not ended."""
        path = self.path / "result.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def write_text(self, name: str, content: str) -> None:
        """Writes a text file, whole or not at all."""
        write_text(self.path / name, content)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes `result.json`, whole or not at all."""
        write_json(self.path / "result.json", result)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file that is never seen half-written."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, content: str) -> None:
    """Writes a text file that is never seen half-written."""
    write_whole(path, content, path.with_suffix(".tmp"))
