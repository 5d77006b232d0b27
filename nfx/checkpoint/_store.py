"""Saving and restoring training state with Orbax."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from nfx.checkpoint._digest import leaf_digests


State = TypeVar("State", bound=PyTree)


class CheckpointError(Exception):
    """A checkpoint that is missing, of something else, or damaged."""


class CheckpointStore:
    """A directory of checkpoints, one a step, of any pytree of arrays.

    Saving is asynchronous and atomic: a checkpoint that was not finished is never listed. Each
    leaf's SHA-256 is saved too and compared on restoring, because a flipped bit in a file is
    otherwise loaded in silence. Use it as a context manager, or `close` it.
    """

    def __init__(self, directory: str | Path, *, keep: int | None = None, read_only: bool = False):
        """Opens a directory.

        Args:
            directory: Where the checkpoints are.
            keep: How many to keep, the latest; all by default.
            read_only: Only look, as at a run that is going on. Otherwise the directory is created,
                and what an interrupted save left in it removed.
        """
        self.directory = Path(directory).absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
            item_names=("state", "record"),
        )

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the save under way and frees the threads."""
        self._manager.close()

    def wait(self) -> None:
        """Waits until the save under way is on disk."""
        self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Returns the steps that have a finished checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: PyTree, config: Mapping[str, Any] | None = None) -> None:
        """Starts to save `state`; its buffers may be donated as soon as this returns.

        Args:
            step: What to call the checkpoint.
            state: A pytree of arrays.
            config: What the run was told, as JSON, so that the checkpoint explains itself.
        """
        record = {"digests": leaf_digests(state), "config": dict(config or {})}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
        )
        self._manager.save(step, args=items, force=True)

    def config(self, step: int) -> dict[str, Any]:
        """Returns the configuration that was saved with a checkpoint."""
        items = ocp.args.Composite(record=ocp.args.JsonRestore())
        return self._manager.restore(step, args=items)["record"]["config"]

    def restore(self, like: State, *, step: int | None = None) -> State:
        """Loads a checkpoint.

        Args:
            like: A pytree of the same structure whose leaves, arrays or abstract, give shapes,
                dtypes and shardings.
            step: The step to load, the latest by default.

        Raises:
            CheckpointError: If there is no such checkpoint, it holds another pytree, or its
                data is damaged.
        """
        steps = self.steps()
        step = step if step is not None else (steps[-1] if steps else None)
        if step is None or step not in steps:
            wanted = "No checkpoint" if step is None else f"No checkpoint of step {step}"
            found = f"steps {', '.join(map(str, steps))}" if steps else "no finished checkpoint"
            raise CheckpointError(
                f"{wanted} in {str(self.directory)!r}: it has {found}. Check the directory, or "
                "train first."
            )
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(jax.tree.map(_abstract, like)),
                    record=ocp.args.JsonRestore(),
                ),
            )
        # Orbax raises bare exceptions of many kinds, down to `Exception`, for damaged files.
        except Exception as error:
            raise CheckpointError(
                f"The checkpoint of step {step} in {str(self.directory)!r} cannot be read: it is "
                f"of another model, of another version of nfx, or damaged "
                f"({_first_line(error)}). Only if it is damaged, remove its "
                f"folder to fall back on an earlier one: {_others(steps, step)}."
            ) from error
        self._verify(restored["state"], restored["record"]["digests"], step, steps)
        return restored["state"]

    def _verify(self, state: PyTree, saved: dict[str, str], step: int, steps: list[int]) -> None:
        digests = leaf_digests(state)
        damaged = [path for path, digest in digests.items() if digest != saved.get(path)]
        if damaged:
            raise CheckpointError(
                f"The checkpoint of step {step} in {str(self.directory)!r} is damaged: "
                f"{len(damaged)} arrays are not what was saved, the first {damaged[0]!r}. Remove "
                f"the folder of that step to fall back on an earlier one: {_others(steps, step)}."
            )


def _abstract(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _others(steps: list[int], step: int) -> str:
    return ", ".join(str(other) for other in steps if other < step) or "there is none"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
