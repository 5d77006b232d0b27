"""Removing checkpoints of a run, never the last whole one."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from nfx._checks import at_least
from nfx.checkpoint import CheckpointStore, find_damage
from nfx.recipes._checkpoints import list_checkpoints, SavedCheckpoint
from nfx.train import lock_directory, RunDirectory


class Pruning(NamedTuple):
    """What is kept of a run's checkpoints, and what is not.

    Attributes:
        kept: Those to keep, which are whole.
        others: Those to remove.
        damaged: What is wrong with those that would be kept if they were whole, by step. They do
            not count, and are not removed either.
    """

    kept: Sequence[SavedCheckpoint]
    others: Sequence[SavedCheckpoint]
    damaged: Mapping[int, str]


def prunable_checkpoints(run: str | Path, *, keep: int = 1, also: Sequence[int] = ()) -> Pruning:
    """Splits the checkpoints of a run into those to keep and the others.

    Only whole ones count: the files of those that would be kept are read.

    Args:
        run: The run directory.
        keep: How many of the latest to keep. The best is kept too.
        also: Steps of others to keep.

    Raises:
        ValueError: If `keep` is not positive, or a step is named that is not there.
        RunDirectoryError: If there is no such run.
        CheckpointError: If a file of a checkpoint cannot be read.
    """
    at_least(1, keep=keep)  # a run resumes from its latest
    checkpoints, saved = RunDirectory.open(run).checkpoints, list_checkpoints(run)
    steps = [checkpoint.step for checkpoint in saved]
    if unknown := sorted(set(also) - set(steps)):
        raise ValueError(
            f"{str(run)!r} has no checkpoint of step {', '.join(map(str, unknown))}: it has "
            f"{', '.join(map(str, steps)) or 'none'}."
        )
    damage: dict[int, str] = {}

    def is_whole(step: int) -> bool:
        if step not in damage:
            damage[step] = find_damage(checkpoints, step)
        return not damage[step]

    kept = {
        *islice(filter(is_whole, reversed(steps)), keep),
        *islice(filter(is_whole, _best_first(saved)), 1),
        *filter(is_whole, also),
    }
    damaged = {step: words for step, words in damage.items() if words}
    return Pruning(
        [checkpoint for checkpoint in saved if checkpoint.step in kept],
        [checkpoint for checkpoint in saved if checkpoint.step not in {*kept, *damaged}],
        damaged,
    )


def prune_checkpoints(
    run: str | Path, *, keep: int = 1, also: Sequence[int] = (), say: Callable[[str], object]
) -> Pruning:
    """Removes the checkpoints that are not kept, and returns as `prunable_checkpoints` does.

    Args:
        run: See `prunable_checkpoints`.
        keep: See there.
        also: See there.
        say: Is told if the run directory cannot be locked.

    Raises:
        ValueError: See there.
        RunDirectoryError: If there is no such run, or it is going on.
        CheckpointError: If a file of a checkpoint cannot be read.
    """
    directory = RunDirectory.open(run)
    with lock_directory(directory.path, say=say):
        pruning = prunable_checkpoints(run, keep=keep, also=also)
        with CheckpointStore(directory.checkpoints) as store:
            for checkpoint in pruning.others:
                store.delete(checkpoint.step)
    return pruning


def _best_first(saved: Sequence[SavedCheckpoint]) -> list[int]:
    """The steps that were evaluated, from the best on; of equal ones the later comes first."""
    scores = {each.step: each.test_accuracy for each in saved if each.test_accuracy is not None}
    return sorted(scores, key=lambda step: (scores[step], step), reverse=True)
