"""nfx's own format: labelled images in shards of ArrayRecord, beside a manifest."""

import bisect
import dataclasses
import hashlib
import itertools
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nfx._checks import at_least
from nfx._files import file_digest
from nfx._show import typed_path
from nfx.data._manifest import DatasetError, Manifest, read_manifest, Shard
from nfx.data._sources import ImageError, Record, Source, Splits


# A record: this header, the name, the image. Little-endian: label, bytes of the name, and height,
# width and channels of pixels, which are zeros for an encoded file.
_HEADER = struct.Struct("<iIIII")


@dataclasses.dataclass(frozen=True)
class ArrayRecordSource:
    """Images in shards of ArrayRecord, read when asked for.

    Shards are opened when one of their records is first read, and stay open: a process has one
    open file and some 60 KB for each that it has read from.

    Attributes:
        root: The directory of the shards.
        shards: The shards, in order.
        class_names: One name a class.
    """

    root: Path
    shards: tuple[Shard, ...]
    class_names: Sequence[str]
    _ends: list[int] = dataclasses.field(init=False, repr=False, compare=False)
    _records: Any = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Names the shards to ArrayRecord, which opens none of them yet."""
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        parts = [
            _FilePart(os.fspath(self.root / shard.name), 0, shard.records, shard.records)
            for shard in self.shards
        ]
        ends = list(itertools.accumulate(shard.records for shard in self.shards))
        object.__setattr__(self, "_ends", ends)
        object.__setattr__(self, "_records", ArrayRecordDataSource(parts))

    def __len__(self) -> int:
        """Number of images."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        """The record at `index`.

        Raises:
            ImageError: If it cannot be read; the name is that of the shard and the position in it.
            IndexError: If there is none.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} records")
        index %= len(self)
        try:
            return decode_record(self._records[index])
        except (RuntimeError, OSError, ValueError, struct.error) as error:
            number = bisect.bisect_right(self._ends, index)
            shard = self.shards[number]
            position = index - self._ends[number] + shard.records
            raise ImageError(
                f"the record cannot be read: {error}. "
                f"`nfx convert --verify {typed_path(self.root)}` lists every damaged shard",
                f"{shard.name}, record {position}",
            ) from error


@dataclasses.dataclass
class _FilePart:
    """What ArrayRecord needs to know of a file, so as not to open it."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def load_records(root: str | Path) -> Splits[Source]:
    """Opens a data set that `nfx convert` wrote, without reading any image.

    Args:
        root: The directory with `dataset.json`.

    Raises:
        DatasetError: If the conversion was not finished, the manifest is missing, damaged or of a
            newer format, or a shard is missing, of the wrong size or cannot be reached.
    """
    root = Path(root).expanduser().absolute()
    manifest = read_manifest(root)
    problems = [problem for shard in manifest.shards if (problem := _size_problem(root, shard))]
    if problems:
        raise DatasetError(_describe_problems(root, problems))
    return Splits(
        *(
            ArrayRecordSource(root, manifest.splits[split], manifest.class_names)
            for split in ("train", "test")
        )
    )


def verify_records(
    root: str | Path,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Reads every byte of a data set and compares it with its checksums.

    Args:
        root: The directory with `dataset.json`.
        workers: Threads; all cores by default.
        progress: Called with the bytes that are checked, and with those of all shards.

    Raises:
        DatasetError: If anything differs or cannot be read; the message names every such shard.
        ValueError: If `workers` is not positive.
    """
    workers = thread_count(workers)
    root = Path(root).expanduser().absolute()
    manifest = read_manifest(root)
    total, checked, problems = sum(shard.bytes for shard in manifest.shards), 0, []
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda shard: _problem(root, shard), manifest.shards)
        for shard, problem in zip(manifest.shards, found, strict=True):
            checked += shard.bytes
            problems += [problem] if problem else []
            if progress is not None:
                progress(checked, total)
    if problems:
        raise DatasetError(_describe_problems(root, problems))
    return manifest


def thread_count(workers: int | None) -> int:
    """Returns how many threads are meant: as many as there are cores by default.

    Raises:
        ValueError: If it is not positive.
    """
    at_least(1, workers=workers)
    return workers or os.cpu_count() or 1


def encode_record(record: Record) -> bytes:
    """Returns a labelled image as the bytes of a record.

    Raises:
        ImageError: If its pixels are not those of an image.
    """
    image, shape = record.image, (0, 0, 0)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or not image.size:
            raise ImageError(
                f"pixels must be uint8 of shape (height, width, channels); they are {image.dtype} "
                f"of shape {image.shape}",
                record.name,
            )
        image, shape = image.tobytes(), image.shape
    name = os.fsencode(record.name)
    return b"".join((_HEADER.pack(record.label, len(name), *shape), name, image))


def decode_record(payload: bytes) -> Record:
    """Undoes `encode_record`.

    Raises:
        ValueError: If these bytes are no record.
    """
    if len(payload) < _HEADER.size:
        raise ValueError(f"{len(payload)} bytes are no record")
    label, length, *shape = _HEADER.unpack_from(payload)
    start = _HEADER.size + length
    if len(payload) < start:
        raise ValueError(f"{len(payload)} bytes are too few for a name of {length}")
    name = os.fsdecode(payload[_HEADER.size : start])
    if not any(shape):
        return Record(payload[start:], label, name)
    return Record(np.frombuffer(payload, np.uint8, offset=start).reshape(shape), label, name)


def record_digest(position: int, payload: bytes) -> int:
    """Returns the SHA-256 of a record and its position in the split, as a number."""
    digest = hashlib.sha256(position.to_bytes(8, "little"))
    digest.update(payload)
    return int.from_bytes(digest.digest())


class _Problem(NamedTuple):
    words: str
    is_damage: bool = True  # or it cannot be read now


def _size_problem(root: Path, shard: Shard) -> _Problem | None:
    try:
        size = (root / shard.name).stat().st_size
    except OSError as error:
        return _unreadable(shard, error)
    if size == shard.bytes:
        return None
    return _Problem(f"{shard.name}: {size} bytes instead of {shard.bytes}")


def _problem(root: Path, shard: Shard) -> _Problem | None:
    if problem := _size_problem(root, shard):
        return problem
    try:
        differs = file_digest(root / shard.name) != shard.sha256
    except OSError as error:
        return _unreadable(shard, error)
    return _Problem(f"{shard.name}: its checksum is wrong") if differs else None


def _unreadable(shard: Shard, error: OSError) -> _Problem:
    missing = isinstance(error, FileNotFoundError)
    return _Problem(f"{shard.name}: {error.strerror}", is_damage=missing)


def _describe_problems(root: Path, problems: Sequence[_Problem]) -> str:
    kinds = {
        True: "damaged. Restore from a copy, or convert the images again:",
        False: "not readable, which need not be damage. See to the permissions and the disk:",
    }
    lines = []
    for is_damage, advice in kinds.items():
        found = [f"  {words}" for words, of_damage in problems if of_damage == is_damage]
        count = "1 shard is" if len(found) == 1 else f"{len(found)} shards are"
        lines += [f"In {str(root)!r} {count} {advice}", *found] if found else []
    return "\n".join(lines)
