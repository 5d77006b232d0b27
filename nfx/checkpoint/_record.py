"""What a checkpoint says of itself, beside the state."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import PreservationContext

from nfx.checkpoint._digest import leaf_digests


def make_record(
    state: PyTree,
    config: Mapping[str, Any] | None,
    progress: Mapping[str, Any] | None,
    score: float | None,
) -> dict[str, Any]:
    """Returns what is saved with a state, sealed: see `CheckpointStore.save`."""
    record = {
        "digests": leaf_digests(state),
        "config": dict(config or {}),
        "progress": dict(progress or {}),
        "score": score,
    }
    return {**record, "seal": _seal(record)}


def is_sealed(record: Any) -> bool:
    """Whether a record is what was saved."""
    return isinstance(record, dict) and record.get("seal") == _seal(record)


def damage(state: PyTree, record: Any) -> str:
    """Returns what of a checkpoint is not what was saved; "" if it is whole."""
    if not is_sealed(record):
        return "its record is not what was saved"
    saved, digests = record["digests"], leaf_digests(state)
    damaged = [path for path, digest in digests.items() if digest != saved.get(path)]
    return (
        f"{len(damaged)} arrays are not what was saved, the first {damaged[0]!r}" if damaged else ""
    )


def best_step(scores: Mapping[int, float], steps: Sequence[int]) -> int | None:
    """Returns the step with the highest score, the later of equal ones; None if none has one."""
    scored = [step for step in steps if step in scores]
    return max(scored, key=lambda step: (scores[step], step), default=None)


class LatestAndBest:
    """Keeps the latest checkpoints and the best one: a `PreservationPolicy` of Orbax."""

    def __init__(self, keep: int, scores: Mapping[int, float]):
        """Takes how many of the latest, and the scores as they are when it is asked."""
        self._keep, self._scores = keep, scores

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: PreservationContext
    ) -> list[bool]:
        """Returns for each checkpoint whether it is kept."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self._keep :], best_step(self._scores, steps)}
        return [step in kept for step in steps]


def _seal(record: Mapping[str, Any]) -> str:
    """A fingerprint of the record itself: the digests in it vouch for arrays alone."""
    content = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
