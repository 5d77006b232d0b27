"""What a run says about steps that were not finite, and which it leaves out."""

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from nfx.train._processes import is_first_process
from nfx.train._records import read_records, Records


_FILE = "nonfinite.jsonl"

# Names of images in a message; the file has all.
_SHOWN = 5


@dataclasses.dataclass(frozen=True, slots=True)
class NonfiniteStep:
    """A step that was not finite.

    Attributes:
        step: Which, from 1.
        batch: Where its batch stands in the order without anything left out, from 0.
        images: Names of the batch's images.
        left_out: Whether the run goes on without the batch.
    """

    step: int
    batch: int
    images: Sequence[str]
    left_out: bool

    def __str__(self) -> str:
        """The images, some of them by name."""
        shown = ", ".join(repr(name) for name in self.images[:_SHOWN])
        more = len(self.images) - _SHOWN
        return f"Its images are {shown}" + (f" and {more} more" if more > 0 else "")


class NonfiniteLog:
    """The steps of a run that were not finite, listed in `nonfinite.jsonl` of its directory.

    Of several processes the first writes, and all know.

    Attributes:
        path: The file.
        left_out: Batches that the run leaves out: see `nfx.data.training_batches`.
    """

    def __init__(self, directory: Path):
        """Reads what was left out before the run was interrupted."""
        self.path = directory / _FILE
        self.left_out = [
            record["batch"] for record in read_nonfinite(directory) if record["left_out"]
        ]

    def take(self, found: NonfiniteStep) -> None:
        """Adds a step to the list."""
        with closing(Records(self.path, writes=is_first_process())) as records:
            records.append(dataclasses.asdict(found))
            records.sync()  # the next checkpoint is of a run without the batch
        if found.left_out:
            self.left_out.append(found.batch)


def read_nonfinite(directory: Path) -> list[dict[str, Any]]:
    """Returns the steps of a run that were not finite, in order: the fields of `NonfiniteStep`."""
    return read_records(directory / _FILE)
