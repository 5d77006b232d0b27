"""What a directory of records holds: the manifest `dataset.json`."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


MANIFEST = "dataset.json"

# Where a conversion keeps its plan, its lock and what is not whole yet.
SCRATCH = ".conversion"

# Rises when a record or the manifest changes in a way that older code would misread.
FORMAT = 1

_DIGEST_VALUES = 1 << 256


class DatasetError(ValueError):
    """A data set of records that is missing, damaged, unfinished or cannot be written."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
        name: The file's name.
        records: Number of records.
        bytes: Size of the file.
        sha256: Of the file.
        content: Digest of what the records say; see `content_digest`.
    """

    name: str
    records: int
    bytes: int
    sha256: str
    content: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a data set holds.

    Attributes:
        class_names: One name a class.
        splits: The shards of "train" and of "test", in order.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[Shard, ...]]

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards."""
        return tuple(shard for shards in self.splits.values() for shard in shards)

    def to_json(self) -> str:
        """Returns the text of `dataset.json`; its last entry is the SHA-256 of the others."""
        body = {
            "format": FORMAT,
            "class_names": self.class_names,
            "splits": {name: _split_entry(shards) for name, shards in self.splits.items()},
        }
        text = _dump(body)
        return _dump({**body, "sha256": hashlib.sha256(text.encode()).hexdigest()})


def content_digest(parts: Iterable[int]) -> str:
    """Returns the digest of records, or of shards, from the digests of each as numbers.

    It is their sum modulo 2**256. As a record's digest is of its position too, the sum depends on
    the order of the records and not on how they are dealt to shards.
    """
    return f"{sum(parts) % _DIGEST_VALUES:064x}"


def read_manifest(root: Path) -> Manifest:
    """Reads and checks the manifest of a data set.

    Raises:
        DatasetError: If there is none, it is damaged, or a newer nfx wrote it.
    """
    path = root / MANIFEST
    try:
        text = path.read_bytes().decode("ascii")
        entries = json.loads(text)
        written_format = entries["format"]
    except FileNotFoundError:
        raise DatasetError(_why_no_manifest(root)) from None
    except OSError as error:
        raise DatasetError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(_damaged(path)) from error
    if isinstance(written_format, int) and written_format > FORMAT:
        raise DatasetError(
            f"{str(path)!r} is of format {written_format}, and this nfx reads up to {FORMAT}: "
            "update nfx, or convert the images again."
        )
    try:
        manifest = _from_entries(entries)
        whole = manifest.to_json() == text  # the checksum, and all that it does not cover
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DatasetError(_damaged(path)) from error
    if not whole:
        raise DatasetError(_damaged(path))
    return manifest


def _split_entry(shards: Sequence[Shard]) -> dict[str, Any]:
    return {
        "records": sum(shard.records for shard in shards),
        "content": content_digest(int(shard.content, 16) for shard in shards),
        "shards": [dataclasses.asdict(shard) for shard in shards],
    }


def _from_entries(entries: Mapping[str, Any]) -> Manifest:
    return Manifest(
        tuple(entries["class_names"]),
        {
            name: tuple(Shard(**shard) for shard in split["shards"])
            for name, split in entries["splits"].items()
        },
    )


def _dump(entries: Mapping[str, Any]) -> str:
    return json.dumps(entries, indent=1) + "\n"


def _damaged(path: Path) -> str:
    return (
        f"{str(path)!r} is damaged or was changed: its checksum is wrong. Restore it from a copy, "
        "or convert the images again."
    )


def _why_no_manifest(root: Path) -> str:
    if (root / SCRATCH).is_dir():
        return (
            f"The conversion into {str(root)!r} is not finished: run the same `nfx convert` again, "
            "and it goes on where it stopped."
        )
    return f"{str(root)!r} is no data set of nfx: it has no {MANIFEST}. `nfx convert` makes one."
