"""What went wrong in a run, as far as its directory tells."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nfx.checkpoint import damaged_checkpoints
from nfx.train import hang_files, read_bad_images, read_nonfinite, RunDirectory


@dataclasses.dataclass(frozen=True)
class Troubles:
    """What went wrong in a run.

    Attributes:
        bad_images: Images that were skipped: see `nfx.data.BadImage`, with their split.
        nonfinite: Steps that were not finite: see `nfx.train.NonfiniteStep`.
        hangs: Names of the files with stacks of threads that hung.
        damaged: The checkpoints that were damaged and put aside, as "step 500", or
            found now, with what is wrong with them.
    """

    bad_images: Sequence[Mapping[str, Any]]
    nonfinite: Sequence[Mapping[str, Any]]
    hangs: Sequence[str]
    damaged: Sequence[str]


def read_troubles(directory: RunDirectory) -> Troubles:
    """Reads what went wrong in a run, of all its processes.

    Raises:
        RunDirectoryError: If a list of it is damaged.
    """
    return Troubles(
        read_bad_images(directory.path),
        read_nonfinite(directory.path),
        [path.name for path in hang_files(directory.path)],
        [f"step {step:,}" for step in damaged_checkpoints(directory.checkpoints)],
    )
