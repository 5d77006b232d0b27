"""Writing one shard, and making sure of it."""

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nfx._files import file_digest, sync, write_whole
from nfx.data._array_record import encode_record, record_digest
from nfx.data._class_names import label_problem
from nfx.data._inputs import Convertible, read_in_order
from nfx.data._manifest import content_digest, DatasetError, Shard
from nfx.data._sources import ImageError


# One record a chunk, for random access; encoded images do not get smaller by compression.
_WRITER_OPTIONS = "group_size:1,uncompressed"

_READ_AT_ONCE = 64


class ShardPlan(NamedTuple):
    """Which images a shard is to hold.

    Attributes:
        split: "train" or "test".
        name: The file's name.
        start: The first image.
        stop: The image after the last.
    """

    split: str
    name: str
    start: int
    stop: int


class StoppedError(Exception):
    """Another shard failed, or the user wants an end."""


@dataclasses.dataclass
class Tally:
    """What a thread did so far.

    Attributes:
        images: Number of images.
        bytes: Size of their records.
    """

    images: int = 0
    bytes: int = 0


def write_shard(
    images: Convertible,
    plan: ShardPlan,
    root: Path,
    scratch: Path,
    tally: Tally,
    stop: threading.Event,
) -> Shard:
    """Writes a shard so that it is there whole or not at all.

    It is written into `scratch`, read back and compared with what was read from the source,
    brought to disk, and renamed after its receipt, by which `finished_shard` knows it.

    Args:
        images: The images of the split.
        plan: Which of them.
        root: The directory of the data set.
        scratch: A directory of the same file system.
        tally: Is kept up to date.
        stop: When set, writing ends.

    Raises:
        DatasetError: If an image cannot be read or has no class, or the shard cannot be written.
        StoppedError: If `stop` was set.
    """
    partial = scratch / f"{plan.name}.partial"
    content = 0
    try:
        with _writer(partial) as writer:
            for payload, digest in _payloads(images, plan):
                writer.write(payload)
                content += digest
                tally.images, tally.bytes = tally.images + 1, tally.bytes + len(payload)
                if stop.is_set():
                    raise StoppedError
                if not writer.ok():
                    break  # closing says why
        shard = _verified(partial, plan, content_digest([content]))
        receipt = json.dumps(dataclasses.asdict(shard))
        write_whole(scratch / f"{plan.name}.json", receipt)
        partial.replace(root / plan.name)
        sync(root)
    except OSError as error:
        raise unwritable(partial, error.strerror or str(error)) from error
    finally:
        partial.unlink(missing_ok=True)
    return shard


def finished_shard(plan: ShardPlan, root: Path, scratch: Path) -> Shard | None:
    """Returns a shard that an earlier conversion finished, or nothing."""
    try:
        shard = Shard(**json.loads((scratch / f"{plan.name}.json").read_text()))
        whole = (root / plan.name).stat().st_size == shard.bytes
    except (OSError, ValueError, TypeError):
        return None
    return shard if whole else None


def _payloads(images: Convertible, plan: ShardPlan) -> Iterator[tuple[bytes, int]]:
    """Yields each record of a shard, and its digest."""
    classes = len(images.class_names)
    try:
        records = read_in_order(images, plan.start, plan.stop)
        for position, record in zip(range(plan.start, plan.stop), records, strict=True):
            if problem := label_problem(record.label, classes):
                raise DatasetError(f"{record.name!r} has the label {record.label}, and {problem}")
            payload = encode_record(record)
            yield payload, record_digest(position, payload)
    except ImageError as error:
        raise DatasetError(
            f"Cannot convert {error.name!r}: {error}. Mend or remove it, and run nfx convert again."
        ) from error
    except OSError as error:
        raise DatasetError(f"Cannot read the images: {error}.") from error


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[Any]:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
    try:
        yield writer
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        raise
    try:
        writer.close()
    except RuntimeError as error:
        raise unwritable(path, str(error)) from error


def _verified(path: Path, plan: ShardPlan, content: str) -> Shard:
    """Brings a shard to disk, reads it back, and says what it is."""
    from array_record.python.array_record_module import ArrayRecordReader

    with path.open("rb") as file:
        os.fsync(file.fileno())
    reader = ArrayRecordReader(os.fspath(path), "readahead_buffer_size:0,max_parallelism:0")
    try:
        count, found = reader.num_records(), 0
        for first in range(0, count, _READ_AT_ONCE):
            payloads = reader.read(first, min(first + _READ_AT_ONCE, count))
            found += sum(map(record_digest, range(plan.start + first, plan.stop), payloads))
    except RuntimeError as error:
        raise unwritable(path, f"reading it back failed: {error}") from error
    finally:
        reader.close()
    if count != plan.stop - plan.start or content_digest([found]) != content:
        raise unwritable(path, "what was read back differs from what was written")
    return Shard(plan.name, count, path.stat().st_size, file_digest(path), content)


def unwritable(path: Path, reason: str) -> DatasetError:
    """Says what a conversion cannot write, why, and what to do."""
    name = path.name.removesuffix(".partial")
    return DatasetError(
        f"Cannot write {name!r}: {reason}. Shards that are whole are kept: make room or mend the "
        "disk, and run the same nfx convert again."
    )
