"""The SHA-256 of every file of a checkpoint: its last file, without which it does not exist."""

import asyncio
import functools as ft
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from nfx._files import file_digest, json_digest, sync, write_whole
from nfx.checkpoint._errors import first_line, readable, UnreadableError


LIST = "files.json"

Content = TypeVar("Content")

# What processes tell each other about damage: bytes, the end of which says nothing.
_WORDS = 500


class ListedDirectory(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A directory that Orbax writes a checkpoint into, until it is finished and renamed.

    Before that its files are listed with their digests. Of several processes the first does it,
    when all have written theirs.
    """

    _metadata: Any

    @classmethod
    def from_final(
        cls, final_path: Any, *, checkpoint_metadata_store: Any = None, **options: Any
    ) -> "ListedDirectory":
        """As Orbax does; parts of a checkpoint, which are directories in it, have no metadata."""
        directory: Any = super().from_final(
            final_path, checkpoint_metadata_store=checkpoint_metadata_store, **options
        )
        directory._metadata = checkpoint_metadata_store
        return directory

    async def finalize(self) -> None:
        """Lists the files, sees that they are on disk, and gives the directory its name."""
        directory, final = Path(self.get()), Path(self.get_final())
        if self._metadata is not None:
            await asyncio.to_thread(self._metadata.wait_until_finished)  # another thread writes it
            await asyncio.to_thread(list_files, directory)
        directory.rename(final)
        sync(final.parent)


def list_files(directory: Path) -> None:
    """Writes the list of a directory's files; they are on disk then, and their directories too."""
    paths = list(directory.rglob("*"))
    for path in paths:
        sync(path)
    digests = {
        path.relative_to(directory).as_posix(): file_digest(path)
        for path in paths
        if path.is_file()
    }
    content = {"sha256": digests, "seal": json_digest(digests)}
    write_whole(directory / LIST, json.dumps(content))


def find_damage(directory: Path, step: int) -> str:
    """Describes which files of a checkpoint are not what was saved; "" if all are.

    Args:
        directory: Where checkpoints are.
        step: Of the checkpoint.

    Raises:
        CheckpointError: If a file cannot be read, which need not be damage.
    """
    with readable(directory, step):
        return describe_damaged_files(directory / str(step))


def describe_damaged_files(directory: Path) -> str:
    """Describes which files of a directory differ from its list; "" if none does.

    Of several processes, which all must ask, the first looks, and all get its words.

    Raises:
        UnreadableError: If one cannot be read, of which nothing is known then.
    """
    words, unreadable = "", False
    if jax.process_index() == 0:
        try:
            words = _describe_damage(directory)
        except UnreadableError as error:
            words, unreadable = str(error), True
    if jax.process_count() > 1:
        words, unreadable = _told_by_first(words, unreadable)
    if unreadable:
        raise UnreadableError(words)
    return words


def _told_by_first(words: str, unreadable: bool) -> tuple[str, bool]:
    """What the first process has found."""
    ocp.multihost.sync_global_processes("nfx: the files of a checkpoint were compared")
    told = (bytes([unreadable]) + words.encode())[:_WORDS].ljust(_WORDS)
    told = multihost_utils.broadcast_one_to_all(np.frombuffer(told, np.uint8))
    told = np.asarray(told).tobytes()
    return told[1:].decode(errors="replace").rstrip(), bool(told[0])


def read_as_listed(directory: Path, name: str) -> bytes | None:
    """Returns the content of one of a directory's files; None if it is not what was listed.

    Raises:
        UnreadableError: If it cannot be read.
    """
    try:
        content = _read(directory, name, Path.read_bytes)
        as_listed = hashlib.sha256(content).hexdigest() == _listed(directory)[name]
    except _NO_LIST:
        return None
    return content if as_listed else None


# What reading a file raises that is not there; other errors of the system may pass.
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)

# What reading a list that was damaged raises.
_NO_LIST = (*_MISSING, ValueError, KeyError, TypeError)


def _read(directory: Path, name: str, read: Callable[[Path], Content]) -> Content:
    """Reads one of a directory's files."""
    try:
        return read(directory / name)
    except _MISSING:
        raise
    except (OSError, MemoryError) as error:
        raise UnreadableError(f"its file {name!r} gives an error ({first_line(error)})") from error


def _listed(directory: Path) -> dict[str, str]:
    """The digests of a directory's files by name."""
    content = json.loads(_read(directory, LIST, Path.read_text))
    if content["seal"] != json_digest(content["sha256"]):
        raise ValueError("it is not what was written")
    return content["sha256"]


def _describe_damage(directory: Path) -> str:
    try:
        expected = _listed(directory)
    except _NO_LIST as error:
        return f"its list of files, {LIST!r}, cannot be used ({error})"
    with ThreadPoolExecutor() as threads:
        found = threads.map(ft.partial(_digest, directory), expected)
        bad = [name for name, digest in zip(expected, found, strict=True)
               if digest != expected[name]]  # fmt: skip
    if not bad:
        return ""
    state = "not what was written" if (directory / bad[0]).is_file() else "missing"
    more = f", and {len(bad) - 1} more are not right" if bad[1:] else ""
    return f"its file {bad[0]!r} is {state}{more}"


def _digest(directory: Path, name: str) -> str | None:
    """The SHA-256 of one of a directory's files; None if it is missing."""
    try:
        return _read(directory, name, file_digest)
    except _MISSING:
        return None
