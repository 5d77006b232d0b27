"""Which checkpoints are kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from orbax.checkpoint.checkpoint_managers import PreservationContext


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
