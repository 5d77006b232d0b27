"""What a run says about images that it had to skip."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nfx._show import typed_path
from nfx.data import BadImage
from nfx.train._errors import TrainingError
from nfx.train._processes import process_suffix
from nfx.train._records import read_records, Records


_NAME = "bad_images"


class BadImagesLog:
    """Lists the images that a run skipped in its directory, each once, and stops at too many.

    A process lists what it met itself, in `bad_images.jsonl`, or as number `n` of several
    processes, from 1, in `bad_images-n.jsonl`.
    """

    def __init__(self, directory: Path, *, share: float, say: Callable[[str], Any]):
        """Opens the list, which goes on from that of the run before it was interrupted.

        Args:
            directory: The run directory.
            share: Stop when more than this share of a split's images is bad, of those that this
                process has met, now or before the run was interrupted.
            say: Shows a line to whoever watches.
        """
        self._path = directory / f"{_NAME}{process_suffix()}.jsonl"
        self._share, self._say = share, say
        self._records: Records | None = None
        self._known: dict[str, set[int]] = {}

    def close(self) -> None:
        """Closes the file."""
        if self._records is not None:
            self._records.close()

    def take(self, split: str, count: int, bad: BadImage) -> None:
        """Takes note of an image that was skipped, for the first time or again.

        Args:
            split: What it is of: "train" or "test".
            count: How many images that has.
            bad: Which image.

        Raises:
            TrainingError: If more than the share of the images is bad.
        """
        records = self._open()
        known = self._known.setdefault(split, set())
        if bad.index not in known:
            known.add(bad.index)
            records.append({"split": split, **dataclasses.asdict(bad)})
            if len(known) == 1:
                listed = f"Skipping bad images, listed in {typed_path(self._path)}"
                self._say(f"{listed}: {bad.name!r}: {bad.reason}")
        if len(known) > self._share * count:
            raise TrainingError(
                f"{len(known)} of {count:,} {split} images cannot be used, more than the share of "
                f"{self._share:g} that may be skipped. The last is {bad.name!r}: {bad.reason}. All "
                f"are listed in {str(self._path)!r}: repair or remove them, or raise --bad-share."
            )

    def _open(self) -> Records:
        """Opens the file when there is something to list."""
        if self._records is None:
            self._records = Records(self._path)
            for record in self._records.kept:
                self._known.setdefault(record["split"], set()).add(record["index"])
        return self._records


def read_bad_images(directory: Path) -> list[dict[str, Any]]:
    """Returns what all processes of a run have listed: `nfx.data.BadImage`s, with their split."""
    paths = sorted(directory.glob(f"{_NAME}*.jsonl"))
    return [record for path in paths for record in read_records(path)]
