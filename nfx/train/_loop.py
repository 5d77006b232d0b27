"""The loop around the step, and evaluation."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from nfx.data import Batch
from nfx.train._step import EvaluationCounts, Metrics, TrainState


class TrainingError(Exception):
    """Training that cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """How long to train, and how often to look up. The last step is always looked at.

    Attributes:
        steps: Steps in all.
        log_every: Steps between records of metrics.
        evaluate_every: Steps between evaluations.
        checkpoint_every: Steps between checkpoints.
    """

    steps: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int

    def __post_init__(self) -> None:
        """Checks that all are positive."""
        if min(self.steps, self.log_every, self.evaluate_every, self.checkpoint_every) < 1:
            raise ValueError(f"Every count of steps must be at least 1; got {self}.")


@runtime_checkable
class Observer(Protocol):
    """What is done with the state as training goes."""

    def log(self, step: int, metrics: Mapping[str, Any], seconds_per_step: float) -> None:
        """Takes the metrics since the last call: their means, and the loss of this step.

        Scalars are floats, vectors lists of them.
        """
        ...

    def evaluate(self, step: int, state: TrainState) -> object:
        """Takes the state when an evaluation is due."""
        ...

    def checkpoint(self, step: int, state: TrainState) -> None:
        """Takes the state when a checkpoint is due; the losses that led to it are finite."""
        ...


class Evaluation(NamedTuple):
    """How well a model does.

    Attributes:
        accuracy: Share of examples whose label is scored highest.
        loss: Mean cross-entropy, without smoothing.
        examples: How many, each seen once.
    """

    accuracy: float
    loss: float
    examples: int


def run_training(
    step: Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, Metrics]],
    state: TrainState,
    batches: Iterator[Batch],
    key: PRNGKeyArray,
    cadence: Cadence,
    observer: Observer,
) -> TrainState:
    """Trains from the step of `state` to the last.

    The device runs ahead of the host, which waits only when something is due.

    Args:
        step: A compiled step: see `make_train_step`.
        state: Where to start; it is donated.
        batches: Batches on the devices, beginning with that of the next step: see
            `nfx.sharding.prefetch_batches`.
        key: The run's key.
        cadence: How long, and when something is due.
        observer: What to do then.

    Raises:
        TrainingError: If the loss or the gradient is not finite, before anything is saved.
    """
    pending: list[Metrics] = []
    began = time.monotonic()
    for number in range(int(state.step) + 1, cadence.steps + 1):
        state, metrics = step(state, next(batches), key)
        pending.append(metrics)
        evaluates, checkpoints, logs = (
            number % every == 0 or number == cadence.steps
            for every in (cadence.evaluate_every, cadence.checkpoint_every, cadence.log_every)
        )
        if not (evaluates or checkpoints or logs):
            continue
        averages = _average(number, pending)
        observer.log(number, averages, (time.monotonic() - began) / len(pending))
        if evaluates:  # first, so that a run killed after the checkpoint has lost no record
            observer.evaluate(number, state)
        if checkpoints:
            observer.checkpoint(number, state)
        pending.clear()
        began = time.monotonic()
    return state


def run_evaluation(
    step: Callable[[PyTree, PyTree, Batch], EvaluationCounts],
    models: Sequence[PyTree],
    statistics: PyTree,
    batches: Iterable[Batch],
) -> list[Evaluation]:
    """Evaluates models on every example once, in one pass over the batches.

    Args:
        step: See `make_evaluation_step`.
        models: The models.
        statistics: Their state: see `TrainState`.
        batches: Batches on the devices: of `nfx.data.evaluation_batches`, placed by
            `nfx.sharding.prefetch_batches`.

    Raises:
        ValueError: If not one image is left to evaluate on.
    """
    # One batch after the other, for no more of them to be on the devices than is needed.
    counts = [
        jax.device_get([step(model, statistics, batch) for model in models]) for batch in batches
    ]

    def total(of_model: Sequence[EvaluationCounts]) -> Evaluation:
        correct, loss, examples = (math.fsum(values) for values in zip(*of_model, strict=True))
        if not examples:
            raise ValueError("None of the images to evaluate on can be used.")
        return Evaluation(correct / examples, loss / examples, int(examples))

    return [total(of_model) for of_model in zip(*counts, strict=True)]


def _average(last: int, metrics: list[Metrics]) -> dict[str, Any]:
    """Averages the metrics of steps that end with `last`; all losses must be finite."""
    records = jax.device_get(metrics)
    for number, record in enumerate(records, start=last - len(records) + 1):
        if not (math.isfinite(record["loss"]) and math.isfinite(record["gradient_norm"])):
            scalars = {name: value for name, value in record.items() if value.ndim == 0}
            values = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
            raise TrainingError(
                f"Training diverged: at step {number} the metrics were {values}, and were expected "
                "to be finite. Nothing was saved since the last checkpoint. Lower the learning "
                "rate, clip harder or warm up for longer, and start again."
            )
    means = {
        name: np.mean([record[name] for record in records], axis=0, dtype=np.float64).tolist()
        for name in records[0]
    }
    return {**means, "last_loss": float(records[-1]["loss"])}
