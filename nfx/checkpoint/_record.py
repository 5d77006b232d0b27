"""What a checkpoint says of itself, beside the state."""

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
    """Returns what is saved with a state: see `CheckpointStore.save`."""
    return {
        "digests": leaf_digests(state),
        "config": dict(config or {}),
        "progress": dict(progress or {}),
        "score": score,
    }


def damaged_arrays(state: PyTree, saved: Mapping[str, str]) -> str:
    """Returns which arrays are not those that were saved, in words; "" if all are.

    Every byte is compared, on the way to the disk and back.

    Args:
        state: What was restored.
        saved: The digests of what was saved.
    """
    digests = leaf_digests(state)
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
