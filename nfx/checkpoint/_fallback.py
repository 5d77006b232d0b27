"""Going back to an earlier checkpoint where the latest is damaged."""

from nfx.checkpoint._store import CheckpointError, CheckpointStore, State


def restore_newest(
    store: CheckpointStore,
    like: State,
    *,
    newest: int | None = None,
) -> tuple[int, State] | None:
    """Loads the newest checkpoint that is whole, and puts damaged ones after it aside.

    Args:
        store: The checkpoints. Its `warn` is told of each damaged one, and where it is moved:
            beside the directory, into `NAME.damaged`.
        like: See `CheckpointStore.restore`.
        newest: The step to begin with, by default the latest that is seen here.

    Returns:
        Its step and state; None if there is no checkpoint at all.

    Raises:
        CheckpointError: If there are checkpoints and none can be loaded, with what is wrong with
            each. Nothing is moved then: all may be of another model.
    """
    damaged: dict[int, CheckpointError] = {}
    seen = [step for step in store.steps() if newest is None or step < newest]
    for step in reversed(seen if newest is None else [*seen, newest]):
        try:
            state = store.restore(like, step=step)
        except CheckpointError as error:
            damaged[step] = error
            continue
        if damaged:
            aside = store.put_aside(damaged)
            for error in damaged.values():
                store.warn(f"{error}\nIt is moved into {str(aside)!r}; going on from step {step}.")
        return step, state
    if damaged:
        reasons = "\n".join(f"- {error}" for error in damaged.values())
        raise CheckpointError(
            f"None of the {len(damaged)} checkpoints in {str(store.directory)!r} can be "
            f"loaded:\n{reasons}"
        )
    return None
