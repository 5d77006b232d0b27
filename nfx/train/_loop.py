"""The loop around the step, and evaluation."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from nfx._checks import at_least
from nfx.data import Batch
from nfx.train._errors import NotFiniteError
from nfx.train._pace import Pace, Stopwatch
from nfx.train._step import EvaluationCounts, Metrics, TrainState


# Metrics of a step that have to be finite. Losses and gradients are of the parameters before it;
# the update, which makes those that are saved, can be of another gradient.
_FINITE = ("loss", "gradient_norm", "update_norm")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """How long to train, and how often to log, evaluate and save; the last step does all three.

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
        at_least(1, **dataclasses.asdict(self))

    def due(self, step: int) -> "Due":
        """Returns what is due after a step."""
        return Due(
            *(
                step % every == 0 or step == self.steps
                for every in (self.log_every, self.evaluate_every, self.checkpoint_every)
            )
        )


class Due(NamedTuple):
    """What is due after a step. Metrics are recorded whenever anything is."""

    log: bool
    evaluation: bool
    checkpoint: bool


@runtime_checkable
class Observer(Protocol):
    """What is done with the state as training goes."""

    def log(self, step: int, metrics: Mapping[str, Any], pace: Pace) -> None:
        """Takes the metrics since the last call: their means, and the loss of this step.

        Scalars are floats, vectors lists of them.
        """
        ...

    def evaluate(self, step: int, state: TrainState) -> None:
        """Takes the state when an evaluation is due."""
        ...

    def checkpoint(
        self, step: int, state: TrainState, unlogged: Sequence[Mapping[str, Any]]
    ) -> None:
        """Takes the state when a checkpoint is due; the updates that led to it are finite.

        With the metrics of steps that no record holds yet: see `run_training`.
        """
        ...

    def should_stop(self, step: int, together: bool) -> bool:
        """Called when a step has been dispatched; returns whether to stop after it.

        All processes must return the same. `together` says that they are at the same point, where
        they may ask each other.
        """
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
    *,
    unlogged: Sequence[Mapping[str, Any]] = (),
) -> TrainState:
    """Trains from the step of `state` to the last, or until the observer stops it.

    The device runs ahead of the host, which waits only when something is due.

    Args:
        step: A compiled step: see `make_train_step`.
        state: Where to start; it is donated.
        batches: Batches on the devices, beginning with that of the next step: see
            `nfx.sharding.prefetch_batches`.
        key: The run's key.
        cadence: How long, and when something is due.
        observer: What to do then.
        unlogged: Metrics of earlier steps that no record holds yet, as `checkpoint` got them: the
            next record then averages the same steps as if the run had never stopped.

    Raises:
        NotFiniteError: If the loss, the gradient or the update is not finite, before anything is
            saved.
    """
    pending: list[Mapping[str, Any]] = [*unlogged]
    metrics: Metrics = {}
    watch = Stopwatch(int(state.step))
    for number in range(int(state.step) + 1, cadence.steps + 1):
        state, metrics = step(state, watch.next_batch(batches, metrics), key)
        pending.append(metrics)
        due = cadence.due(number)
        if any(due):
            averages = _average(_finite(number, pending))
            observer.log(number, averages, watch.pace(number))
            pending.clear()
        if due.evaluation:  # first, so that a run killed after the checkpoint has lost no record
            observer.evaluate(number, state)
        stops = observer.should_stop(number, any(due))
        if due.checkpoint or stops:
            observer.checkpoint(number, state, _finite(number, pending))
        if stops:
            break
        if any(due):
            watch.restart(number)
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

    if not counts:
        raise ValueError("There are no images to evaluate on.")

    def total(of_model: Sequence[EvaluationCounts]) -> Evaluation:
        correct, loss, examples = (math.fsum(values) for values in zip(*of_model, strict=True))
        if not examples:
            raise ValueError("None of the images to evaluate on can be used.")
        return Evaluation(correct / examples, loss / examples, int(examples))

    return [total(of_model) for of_model in zip(*counts, strict=True)]


def _finite(last: int, metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the metrics of steps that end with `last`, on the host; they must be finite."""
    records = jax.device_get(list(metrics))
    for number, record in enumerate(records, start=last - len(records) + 1):
        if not all(math.isfinite(record[name]) for name in _FINITE if name in record):
            scalars = {name: value for name, value in record.items() if np.ndim(value) == 0}
            values = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
            raise NotFiniteError(number, values)
    return [
        {name: np.asarray(value, np.float64).tolist() for name, value in record.items()}
        for record in records
    ]


def _average(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means = {
        name: np.mean([record[name] for record in records], axis=0).tolist() for name in records[0]
    }
    return {**means, "last_loss": records[-1]["loss"]}
