"""What went wrong in a run, as far as its directory tells."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nfx.checkpoint import damaged_folder
from nfx.train._records import read_records


@dataclasses.dataclass(frozen=True)
class Troubles:
    """What went wrong in a run.

    Attributes:
        bad_images: Images that were skipped: see `nfx.data.BadImage`, with their split.
        nonfinite: Steps that were not finite: see `NonfiniteStep`.
        hangs: Names of the files with stacks of threads that hung.
        damaged: Names of the checkpoints that were damaged and put aside.
    """

    bad_images: Sequence[Mapping[str, Any]]
    nonfinite: Sequence[Mapping[str, Any]]
    hangs: Sequence[str]
    damaged: Sequence[str]


def read_troubles(directory: Path) -> Troubles:
    """Reads what went wrong from a run directory, of all processes of the run."""
    bad_images = [
        record
        for path in sorted(directory.glob("bad_images*.jsonl"))
        for record in read_records(path)
    ]
    return Troubles(
        bad_images,
        read_records(directory / "nonfinite.jsonl"),
        sorted(path.name for path in directory.glob("hang-*.txt")),
        sorted(path.name for path in damaged_folder(directory / "checkpoints").glob("*")),
    )
