"""What a checkpoint says of itself, beside the state."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import PyTree

from nfx.checkpoint._digest import leaf_digests


def make_record(
    state: PyTree,
    config: Mapping[str, Any] | None,
    progress: Mapping[str, Any] | None,
    score: float | None,
) -> dict[str, Any]:
    """Returns what is saved with a state: see `CheckpointStore.save`."""
    return {
        "digests": leaf_digests(state),
        "config": dict(config or {}),
        "progress": dict(progress or {}),
        "score": score,
    }
