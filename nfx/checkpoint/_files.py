"""The SHA-256 of every file of a checkpoint: its last file, without which it does not exist."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from nfx._files import file_digest, sync, write_whole


LIST = "files.json"

# What processes tell each other about damage: bytes, the end of which says nothing.
_WORDS = 500


class ListedFolder(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A folder that Orbax writes a checkpoint into, until it is finished and renamed.

    Before that its files are listed with their digests. Of several processes the first does it,
    when all have written theirs.
    """

    _metadata: Any

    @classmethod
    def from_final(
        cls, final_path: Any, *, checkpoint_metadata_store: Any = None, **options: Any
    ) -> "ListedFolder":
        """As Orbax does; parts of a checkpoint, which are folders in it, have no metadata."""
        folder: Any = super().from_final(
            final_path, checkpoint_metadata_store=checkpoint_metadata_store, **options
        )
        folder._metadata = checkpoint_metadata_store
        return folder

    async def finalize(self) -> None:
        """Lists the files, sees that they are on disk, and gives the folder its name."""
        folder, final = Path(self.get()), Path(self.get_final())
        if self._metadata is not None:
            await asyncio.to_thread(self._metadata.wait_until_finished)  # another thread writes it
            await asyncio.to_thread(list_files, folder)
        folder.rename(final)
        sync(final.parent)


def list_files(folder: Path) -> None:
    """Writes the list of a folder's files, which are on disk then."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        sync(path)
    digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    content = {"sha256": digests, "seal": _seal(digests)}
    write_whole(folder / LIST, json.dumps(content), folder / f"{LIST}.tmp")


def damaged_files(folder: Path) -> str:
    """Returns what of a folder's files is not what was listed, in words; "" if all of it is.

    Of several processes, which all must ask, the first looks, and all get its words.
    """
    words = _compared(folder) if jax.process_index() == 0 else ""
    if jax.process_count() == 1:
        return words
    ocp.multihost.sync_global_processes("nfx: the files of a checkpoint were compared")
    told = words.encode()[:_WORDS].ljust(_WORDS)
    told = multihost_utils.broadcast_one_to_all(np.frombuffer(told, np.uint8))
    return np.asarray(told).tobytes().decode(errors="replace").rstrip()


def is_as_listed(folder: Path, name: str) -> bool:
    """Whether one of a folder's files is what was listed."""
    try:
        return _listed(folder)[name] == _digest(folder / name)
    except _NO_LIST:
        return False


# What reading a list that was damaged raises.
_NO_LIST = (OSError, ValueError, KeyError, TypeError)


def _listed(folder: Path) -> dict[str, str]:
    """The digests of a folder's files by name."""
    content = json.loads((folder / LIST).read_text())
    if content["seal"] != _seal(content["sha256"]):
        raise ValueError("it is not what was written")
    return content["sha256"]


def _compared(folder: Path) -> str:
    try:
        expected = _listed(folder)
    except _NO_LIST as error:
        return f"its list of files, {LIST!r}, cannot be used ({error})"
    with ThreadPoolExecutor() as threads:
        found = threads.map(_digest, (folder / name for name in expected))
        bad = [name for name, digest in zip(expected, found, strict=True)
               if digest != expected[name]]  # fmt: skip
    if not bad:
        return ""
    state = "not what was written" if (folder / bad[0]).is_file() else "missing"
    more = f", and {len(bad) - 1} more are not right" if bad[1:] else ""
    return f"its file {bad[0]!r} is {state}{more}"


def _digest(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:  # as a damaged disk gives
        return None


def _seal(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
