"""Saving and restoring training state with Orbax."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from nfx.checkpoint._digest import describe_damaged_arrays
from nfx.checkpoint._errors import (
    CheckpointError,
    DamagedError,
    first_line,
    may_pass,
    opening,
    readable,
    UnreadableError,
)
from nfx.checkpoint._files import find_damage, ListedDirectory, read_as_listed
from nfx.checkpoint._record import make_record
from nfx.checkpoint._retention import best_step, LatestAndBest


State = TypeVar("State", bound=PyTree)

# Which checkpoint: of a step, that with the highest score, or the latest.
Which = int | Literal["best"] | None

# How long a save that failed waits until it is tried again: a full disk may be cleared meanwhile.
_RETRY_SECONDS = 1.0

# Where Orbax writes the record of a checkpoint.
_RECORD = "record/metadata"


def _ignore(message: str) -> None:
    """Says nothing."""


class CheckpointStore:
    """A directory of checkpoints, one a step, of any pytree of arrays.

    Saving is asynchronous and atomic: a checkpoint that was not finished is never listed. The
    SHA-256 of each file and of each leaf is saved too and compared on restoring, because a flipped
    bit in a file is otherwise loaded in silence. A save that fails is tried once more, and then is
    an error. Use it as a context manager, or `close` it.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int | None = None,
        read_only: bool = False,
        warn: Callable[[str], object] = _ignore,
    ):
        """Opens a directory.

        Args:
            directory: Where the checkpoints are.
            keep: How many to keep, the latest, and with them the best if it is not among them; all
                by default.
            read_only: Only look, as at a run that is going on. Otherwise the directory is created,
                and what an interrupted save left in it removed.
            warn: Is told of what went wrong and was mended.

        Raises:
            CheckpointError: If it cannot be opened, or, unless one only looks, the score of a
                checkpoint in it cannot be read.
            FileNotFoundError, NotADirectoryError: If `read_only`, and a checkpoint was removed
                meanwhile.
        """
        self.directory = Path(directory).absolute()
        self._keep, self._read_only, self.warn = keep, read_only, warn
        self._scores: dict[int, float] = {}
        self._unreadable: CheckpointError | None = None
        self._manager = self._open()
        with opening(self.directory, read_only=read_only):
            try:
                self._scores.update(self._saved_scores())
            except CheckpointError as error:
                if not read_only:  # what is saved next might take the place of the best
                    raise
                self._unreadable = error

    def _open(self) -> ocp.CheckpointManager:
        policy = None if self._keep is None else LatestAndBest(self._keep, self._scores)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            create=not self._read_only,
            cleanup_tmp_directories=not self._read_only,
            read_only=self._read_only,
            temporary_path_class=ListedDirectory,
        )
        with opening(self.directory, read_only=self._read_only):
            return ocp.CheckpointManager(
                self.directory, options=options, item_names=("state", "record")
            )

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            self.warn(str(failure))  # what ended the run is the error to tell

    def close(self) -> None:
        """Waits for the save under way and frees the threads.

        Raises:
            CheckpointError: If the save failed.
        """
        self._attempt(self._manager.close, "The last save", last=True)

    def wait(self) -> None:
        """Waits until the save under way is on disk.

        Raises:
            CheckpointError: If it failed.
        """
        self._attempt(self._manager.wait_until_finished, "The last save", last=True)

    def steps(self) -> list[int]:
        """Returns the steps that have a finished checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def scores(self) -> dict[int, float]:
        """Returns the scores of the steps that were saved with one.

        Raises:
            CheckpointError: If that of one cannot be read.
        """
        if self._unreadable:
            raise self._unreadable
        return {step: self._scores[step] for step in self.steps() if step in self._scores}

    def best(self) -> int | None:
        """Returns the step with the highest score, the later of equal ones; None without any.

        Raises:
            CheckpointError: If the score of one cannot be read.
        """
        return best_step(self.scores(), self.steps())

    def reload(self) -> None:
        """Looks at the directory again, from which something has been moved."""
        self._manager.reload()

    def delete(self, step: int) -> None:
        """Removes a checkpoint."""
        self._manager.delete(step)

    def save(
        self,
        step: int,
        state: PyTree,
        config: Mapping[str, Any] | None = None,
        *,
        progress: Mapping[str, Any] | None = None,
        score: float | None = None,
        blocking: bool = False,
    ) -> None:
        """Starts to save `state`; its buffers may be donated as soon as this returns.

        A save that fails is said and tried once more. One that failed after this had returned is
        found by the next one, which is then its second try.

        Args:
            step: What to call the checkpoint.
            state: A pytree of arrays.
            config: What the run was told, as JSON, so that the checkpoint explains itself.
            progress: What else a run needs to go on, as JSON.
            score: How good it is, by which the best is kept: higher is better.
            blocking: Return only when the checkpoint is on disk.

        Raises:
            CheckpointError: If it failed twice, or once in a run of several processes.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            record=ocp.args.JsonSave(make_record(state, config, progress, score)),
        )
        self._scores.pop(step, None)
        self._scores.update({} if score is None else {step: score})
        failed = self._attempt(
            self._manager.wait_until_finished, f"The save before that of step {step}"
        )

        def write() -> None:
            self._manager.save(step, args=items, force=True)
            if blocking or failed:
                self._manager.wait_until_finished()

        if self._attempt(write, f"The save of step {step}", last=failed):
            time.sleep(_RETRY_SECONDS)
            blocking = True
            self._attempt(write, f"The save of step {step}", last=True)

    def _attempt(self, action: Callable[[], object], what: str, *, last: bool = False) -> bool:
        """Does a part of saving; returns whether it failed, after which it can be tried again."""
        try:
            action()
        # Orbax and TensorStore raise errors of many kinds.
        except Exception as error:
            last = last or jax.process_count() > 1  # the others do not know that it failed
            words = f"{what} to {str(self.directory)!r} failed: {first_line(error)}."
            if last:
                raise CheckpointError(
                    f"{words} No checkpoint of it exists, and {_latest(self.directory)}. Make room "
                    "there and see that it can be written, then resume."
                ) from error
            self.warn(f"{words} It is tried once more.")
            self._reopen()
            return True
        return False

    def _reopen(self) -> None:
        """Forgets a save that failed, with what it left on disk."""
        with contextlib.suppress(Exception):  # the same error again
            self._manager.close()
        self._manager = self._open()

    def progress(self, step: int) -> dict[str, Any]:
        """Returns what a run needs to go on from a checkpoint beside its state.

        Raises:
            CheckpointError: If it is damaged or cannot be read.
        """
        record = self._record(step)
        if record is None:
            raise self._damaged(f"its file {_RECORD!r} is missing or not what was written", step)
        return record["progress"]

    def _record(self, step: int) -> dict[str, Any] | None:
        """What a checkpoint says of itself; None if it is damaged.

        Orbax would wait for all processes, and they may see other checkpoints.
        """
        with readable(self.directory, step):
            record = read_as_listed(self.directory / str(step), _RECORD)
        return None if record is None else json.loads(record)

    def _saved_scores(self) -> dict[int, float]:
        """The scores that checkpoints hold, but for damaged ones: restoring says what is wrong."""
        records = {step: self._record(step) for step in self.steps()}
        return {
            step: record["score"]
            for step, record in records.items()
            if record is not None and record["score"] is not None
        }

    def restore(self, like: State, *, step: Which = None) -> State:
        """Loads a checkpoint.

        Args:
            like: A pytree of the same structure whose leaves, arrays or abstract, give shapes,
                dtypes and shardings.
            step: The step to load: see `find`.

        Raises:
            CheckpointError: If there is no such checkpoint, it holds another pytree, its data is
                damaged, or it cannot be read.
        """
        self.wait()
        step = self.find(step)
        if damage := find_damage(self.directory, step):
            raise self._damaged(damage, step)
        with readable(self.directory, step):
            restored = self._restored(like, step)
        digests = restored["record"]["digests"]
        if damage := describe_damaged_arrays(restored["state"], digests):
            raise self._damaged(damage, step)
        return restored["state"]

    def _restored(self, like: PyTree, step: int) -> Mapping[str, Any]:
        """What Orbax makes of files that are as they were written."""
        try:
            return self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(jax.tree.map(_abstract, like)),
                    record=ocp.args.JsonRestore(),
                ),
            )
        # Orbax raises bare exceptions of many kinds, down to `Exception`.
        except Exception as error:
            if may_pass(error):
                raise UnreadableError(first_line(error)) from error
            raise CheckpointError(
                f"The checkpoint of step {step} in {str(self.directory)!r} cannot be read: its "
                "files are as they were written, and it is of another model or of another version "
                f"of nfx ({first_line(error)})."
            ) from error

    def _damaged(self, damage: str, step: int) -> DamagedError:
        return DamagedError(
            f"The checkpoint of step {step} in {str(self.directory)!r} is damaged: {damage}.",
            _advice([other for other in self.steps() if other < step]),
        )

    def find(self, which: Which) -> int:
        """Returns the step of a checkpoint that is there.

        Args:
            which: A step; "best" for that with the highest score; None for the latest.

        Raises:
            CheckpointError: If there is none, or the score of one cannot be read.
        """
        steps = self.steps()
        match which:
            case None:
                step = max(steps, default=None)
            case "best":
                step = self.best()
            case _:
                step = which
        if step is not None and step in steps:
            return step
        wanted = {None: "No checkpoint", "best": "No checkpoint that was evaluated"}
        found = f"steps {', '.join(map(str, steps))}" if steps else "no finished checkpoint"
        raise CheckpointError(
            f"{wanted.get(which, f'No checkpoint of step {which}')} in {str(self.directory)!r}: it "
            f"has {found}. Check the directory, or train first."
        )


def _latest(directory: Path) -> str:
    """Which checkpoint is the latest on disk, without asking a manager whose save has failed."""
    steps = [int(path.name) for path in directory.glob("*") if path.name.isdecimal()]
    return f"the latest is of step {max(steps)}" if steps else "there is no earlier one"


def _abstract(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _advice(earlier: list[int]) -> str:
    if not earlier:
        return "There is no earlier one to fall back on: put back a copy of it, or start anew."
    return (
        "Remove the directory of that step to fall back on an earlier one: "
        f"{', '.join(map(str, earlier))}."
    )
