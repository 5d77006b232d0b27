"""What a model predicts for each test image."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import PyTree

from nfx.data import Batch, PADDING_LABEL
from nfx.sharding import batch_spec, FULLY_SHARDED, replicated, Rules
from nfx.train._losses import one_hot, smoothed_cross_entropy
from nfx.train._placement import shard_model
from nfx.train._preprocessing import Preprocessing
from nfx.train._step import infer


class Outcomes(NamedTuple):
    """What a model predicts for images, one entry each.

    Attributes:
        image: Which, in the order of its source.
        label: Its class.
        predicted: The class that is scored highest.
        probability: The probability of that class.
        loss: Cross-entropy, without smoothing.
    """

    image: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    loss: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of the images whose class is scored highest."""
        return float(np.mean(self.label == self.predicted))

    def confusion(self, classes: int) -> np.ndarray:
        """Counts images by their class, in rows, and by the predicted one, in columns."""
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.label, self.predicted), 1)
        return counts

    def worst(self, count: int) -> "Outcomes":
        """Returns the images that are taken for another class, those of the highest loss first."""
        wrong = np.flatnonzero(self.label != self.predicted)
        order = wrong[np.argsort(-self.loss[wrong], kind="stable")][:count]
        return Outcomes(*(column[order] for column in self))


def make_outcome_step(
    preprocessing: Preprocessing, mesh: Mesh, *, rules: Rules = FULLY_SHARDED
) -> jax.stages.Wrapped:
    """Makes the jitted `(model, statistics, batch) -> (labels, predicted, probability, loss)`.

    Args:
        preprocessing: Normalization; nothing is augmented.
        mesh: The devices; the batch is split over "data" and "fsdp".
        rules: How the model is split: see `nfx.train.state_specs`.
    """

    def outcome_step(model: PyTree, statistics: PyTree, batch: Batch) -> tuple[jax.Array, ...]:
        logits = infer(model, statistics, batch.images, preprocessing)
        losses = smoothed_cross_entropy(logits, one_hot(batch.labels, logits.shape[-1]), 0.0)
        probability = jnp.max(jax.nn.softmax(logits), axis=-1)
        return batch.labels, jnp.argmax(logits, axis=-1), probability, losses

    split = batch_spec(mesh)
    sharded = shard_model(outcome_step, mesh, rules=rules, in_specs=(P(), split), out_specs=split)
    whole = replicated(mesh)
    shardings = (None, whole, NamedSharding(mesh, split))
    return jax.jit(sharded, in_shardings=shardings, out_shardings=whole)


def run_outcomes(
    step: Callable[..., tuple[jax.Array, ...]],
    model: PyTree,
    statistics: PyTree,
    batches: Iterable[Batch],
) -> Outcomes:
    """Runs a model on every image once.

    Args:
        step: See `make_outcome_step`.
        model: The model.
        statistics: Its state: see `TrainState`.
        batches: Batches on the devices, in the order of the source; padding does not count.

    Raises:
        ValueError: If not one image can be used.
    """
    parts = [jax.device_get(step(model, statistics, batch)) for batch in batches]
    if not parts:
        raise ValueError("There are no images to evaluate on.")
    label, *others = (np.concatenate(column) for column in zip(*parts, strict=True))
    index = np.flatnonzero(label != PADDING_LABEL)
    if not index.size:
        raise ValueError("None of the images to evaluate on can be used.")
    return Outcomes(index, *(column[index] for column in (label, *others)))
