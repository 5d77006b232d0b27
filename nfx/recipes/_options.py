"""How to run a recipe."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from nfx._checks import at_least
from nfx.data import Loading


# What a run that is resumed does as it did before, unless told otherwise.
_REMEMBERED = (
    "log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints", "on_nonfinite",
    "hang_timeout", "wandb",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run a recipe.

    None of this changes the result, except the mesh (rounding) and the batches that
    `on_nonfinite` skips.

    Attributes:
        run_dir: Where to write; by default a new directory in runs/, named by recipe and time.
        resume: Resume the run in run_dir from its latest checkpoint, to the same bits as if it
            had never stopped.
        resume_if_begun: Resume the run in run_dir if it has begun, else begin it: one command
            line for every attempt, for whoever starts it again.
        mesh: Devices to use, as "data=4,fsdp=2"; "data=all" splits the batch over all there are.
            The batch is split over data and fsdp, the state over fsdp, and the channels of blocks
            over model.
        threads: Threads that read and decode images, in each worker if there are any; None for as
            many as there are cores, 0 to load in the thread that trains.
        workers: Processes that read and decode images; 0 for threads alone.
        log_every: Steps between records in metrics.jsonl.
        evaluate_every: Steps between evaluations on the test images.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: How many checkpoints to keep, the latest. The best by test accuracy is
            kept beside them: one that was evaluated at its own step.
        on_nonfinite: What to do when the loss or the gradient of a step is not finite: "raise" to
            stop, or "skip" to go back to the last checkpoint and leave the step's batch out, at
            most five times.
        hang_timeout: Seconds without a step after which the stacks of all threads are written to
            standard error and into the run directory; 0 for never.
        wandb: A project of Weights & Biases to show the metrics in too (pip install 'nfx[wandb]').
            TensorBoard has them if tensorboardX is installed.
    """

    run_dir: str = ""
    resume: bool = False
    resume_if_begun: bool = False
    mesh: str = "data=all"
    threads: int | None = None
    workers: int = 0
    log_every: int = 10
    evaluate_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    on_nonfinite: Literal["raise", "skip"] = "raise"
    hang_timeout: float = 1800.0
    wandb: str = ""

    def __post_init__(self) -> None:
        """Checks what does not depend on the recipe.

        Raises:
            ValueError: If a number is not in its range.
        """
        at_least(1, keep_checkpoints=self.keep_checkpoints)
        at_least(0, hang_timeout=self.hang_timeout)
        _ = self.loading  # which has ranges of its own

    @property
    def loading(self) -> Loading:
        """Who loads images."""
        return Loading(threads=self.threads, workers=self.workers)

    @property
    def remembered(self) -> dict[str, Any]:
        """What a run's configuration records, for `options_from_config`."""
        return {name: getattr(self, name) for name in _REMEMBERED}


def options_from_config(config: Mapping[str, Any]) -> RunOptions:
    """Returns the options that a run began with, but for where it runs and on what.

    Args:
        config: A run directory's configuration.
    """
    recorded = config.get("options", {})
    return RunOptions(**{name: recorded[name] for name in _REMEMBERED if name in recorded})
