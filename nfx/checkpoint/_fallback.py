"""Going back to an earlier checkpoint where the latest is damaged."""

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from nfx.checkpoint._errors import CheckpointError, DamagedError
from nfx.checkpoint._store import CheckpointStore, State


def restore_latest(
    store: CheckpointStore,
    like: State,
    *,
    latest: int | None = None,
) -> tuple[int, State] | None:
    """Loads the latest checkpoint that is whole, and puts damaged ones after it aside.

    Args:
        store: The checkpoints. Its `warn` is told of each damaged one, and where it is moved:
            beside the directory, into `NAME.damaged`.
        like: See `CheckpointStore.restore`.
        latest: The step to begin with, by default the latest that is seen here.

    Returns:
        Its step and state; None if there is no checkpoint at all.

    Raises:
        CheckpointError: If there are checkpoints and all are damaged, with what is wrong with
            each; or if one cannot be read or is of another model. Nothing is moved then.
    """
    seen = [step for step in store.steps() if latest is None or step < latest]
    found, damaged = first_whole(store, like, [*([] if latest is None else [latest]), *seen[::-1]])
    if damaged and found is None:
        reasons = "\n".join(f"- {error.found}" for error in damaged.values())
        raise CheckpointError(
            f"None of the {len(damaged)} checkpoints in {str(store.directory)!r} can be "
            f"loaded:\n{reasons}\nPut back a copy of one, or start anew in another directory."
        )
    if damaged and found is not None:
        aside, (step, _) = _put_aside(store, damaged), found
        for error in damaged.values():
            store.warn(f"{error.found} It is moved into {str(aside)!r}; going on from step {step}.")
    return found


def first_whole(
    store: CheckpointStore, like: State, steps: Iterable[int]
) -> tuple[tuple[int, State] | None, dict[int, DamagedError]]:
    """Loads the first checkpoint that is whole, of some in the order in which they are tried.

    Args:
        store: The checkpoints.
        like: See `CheckpointStore.restore`.
        steps: Their steps.

    Returns:
        Its step and state, None if there is none; and what is wrong with those before it.

    Raises:
        CheckpointError: If one cannot be read, or is of another model: it may well be whole.
    """
    damaged: dict[int, DamagedError] = {}
    for step in steps:
        try:
            return (step, store.restore(like, step=step)), damaged
        except DamagedError as error:
            damaged[step] = error
    return None, damaged


def _damaged_folder(directory: Path) -> Path:
    """Returns where the damaged checkpoints of a directory are put aside: beside it."""
    return directory.with_name(directory.name + ".damaged")


def damaged_checkpoints(directory: Path) -> dict[int, Path]:
    """Returns where the damaged checkpoints of a directory are that were put aside, by step."""
    paths = _damaged_folder(directory).glob("*")
    return dict(sorted((int(path.name), path) for path in paths if path.name.isdecimal()))


def _put_aside(store: CheckpointStore, steps: Collection[int]) -> Path:
    """Moves checkpoints into the directory of damaged ones; of all processes one does."""
    aside = _damaged_folder(store.directory)
    try:
        if jax.process_index() == 0:
            _move(store.directory, aside, steps)
    finally:  # the others wait there, even for one that failed
        ocp.multihost.sync_global_processes("nfx: checkpoints are put aside")
    store.reload()
    return aside


def _move(directory: Path, aside: Path, steps: Collection[int]) -> None:
    try:
        aside.mkdir(exist_ok=True)
        for step in steps:
            shutil.rmtree(aside / str(step), ignore_errors=True)
            (directory / str(step)).rename(aside / str(step))
    except OSError as error:
        raise CheckpointError(
            f"Damaged checkpoints of {str(directory)!r} cannot be moved into {str(aside)!r} "
            f"({error.strerror or error}). Move the directories of these steps elsewhere, and try "
            f"again: {', '.join(map(str, steps))}."
        ) from error
