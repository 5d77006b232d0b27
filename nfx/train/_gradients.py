"""The loss of a batch and its gradient: over a mesh, and of a part of the batch at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from nfx._varying import vary, varying_axes
from nfx.data import Batch
from nfx.sharding import (
    batch_axes,
    batch_shards,
    batch_spec,
    local_example_indices,
)
from nfx.train._losses import smoothed_cross_entropy
from nfx.train._options import StepOptions
from nfx.train._placement import shard_gradients
from nfx.train._precision import apply_precisely, Precision
from nfx.train._preprocessing import augment_examples, Preprocessing


# (model, statistics, batch, key, step) -> ((loss, the next statistics), gradients).
Differentiate = Callable[..., tuple[tuple[Float[Array, ""], PyTree], PyTree]]

# Examples of one device, and where they stand in the global batch.
_Examples = tuple[Batch, Int[Array, " n"]]


def check_microbatches(
    microbatches: int, images: int, *, mixes: bool, batch_normalized: bool
) -> None:
    """Raises a `ValueError` if what a device has of a batch cannot be split like that.

    Args:
        microbatches: How many parts.
        images: What a device has of each batch.
        mixes: Whether neighbors are mixed with each other.
        batch_normalized: Whether the step normalizes by the statistics of batches: a
            batch-normalized model whose running averages are frozen does not.
    """
    if microbatches > 1 and batch_normalized:
        raise ValueError(
            f"microbatches={microbatches} must be 1 for a batch-normalized model: it normalizes by "
            "the mean and variance of the whole batch, and parts of it have others."
        )
    if microbatches < 1 or images % microbatches:
        raise ValueError(
            f"microbatches={microbatches} must divide the {images} images that each device has of "
            "a batch."
        )
    if mixes and images // microbatches % 2:
        parts = f" in {microbatches} microbatches" if microbatches > 1 else ""
        raise ValueError(
            "MixUp and CutMix pair neighbors, and must be given an even number of images at a "
            f"time: each device has {images} of a batch{parts}."
        )


def make_differentiate(
    preprocessing: Preprocessing,
    mesh: Mesh,
    options: StepOptions,
) -> Differentiate:
    """Makes the mean loss of a global batch with its gradient; the arguments are those of a step.

    Inside, each device knows the gradient of its own examples. It adds up what its microbatches
    give, in the dtype of the parameters, and that is added up over the devices, once.
    """
    normalized_over = None if options.frozen_statistics else batch_axes(mesh)
    share = _make_share(preprocessing, options.precision, normalized_over)

    def local(
        model: PyTree, statistics: PyTree, batch: Batch, key: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[tuple[Float[Array, ""], PyTree], PyTree]:
        count = batch.labels.shape[0]
        check_microbatches(
            options.microbatches,
            count,
            mixes=preprocessing.augmentation.mixes,
            batch_normalized=statistics is not None and not options.frozen_statistics,
        )
        whole = count * batch_shards(mesh)
        loss_and_gradients = lambda examples: jax.value_and_grad(share, has_aux=True)(
            model, statistics, examples, key, step, whole
        )
        examples = (batch, local_example_indices(mesh, count))
        if options.microbatches == 1:
            (loss, statistics), gradients = loss_and_gradients(examples)
        else:
            loss, gradients = _accumulate(
                loss_and_gradients, model, examples, mesh, options.microbatches
            )
        return (jax.lax.psum(loss, batch_axes(mesh)), statistics), gradients

    return shard_gradients(
        local,
        mesh,
        rules=options.rules,
        communication=options.communication,
        in_specs=(P(), batch_spec(mesh), P(), P()),
        out_specs=(P(), P()),
    )


def _make_share(
    preprocessing: Preprocessing, precision: Precision, normalized_over: tuple[str, ...] | None
) -> Callable[..., tuple[Float[Array, ""], PyTree]]:
    """Makes what some examples add to the mean loss of a whole batch, and the next statistics."""

    def share(
        model: PyTree,
        statistics: PyTree,
        examples: _Examples,
        key: PRNGKeyArray,
        step: Int[Array, ""],
        whole: int,
    ) -> tuple[Float[Array, ""], PyTree]:
        (images, labels), indices = examples
        images, targets, keys = augment_examples(
            preprocessing, images, labels, key, step, indices, model.head.bias.shape[0]
        )
        logits, statistics = apply_precisely(
            precision, model, statistics, images, keys, batch_axes=normalized_over
        )
        losses = smoothed_cross_entropy(logits, targets, preprocessing.label_smoothing)
        return jnp.sum(losses) / whole, statistics

    return share


def _accumulate(
    loss_and_gradients: Callable[[_Examples], tuple[tuple[Array, Any], PyTree]],
    model: PyTree,
    examples: _Examples,
    mesh: Mesh,
    microbatches: int,
) -> tuple[Float[Array, ""], PyTree]:
    """Adds up losses and gradients over the parts of a device's examples, one after the other."""
    parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), examples)

    def add(sums: PyTree, part: _Examples) -> tuple[PyTree, None]:
        (loss, _), gradients = loss_and_gradients(part)
        return jax.tree.map(jnp.add, sums, (loss, gradients)), None

    # A loop's sums have to be what they become: as different between devices as their terms are.
    loss = vary(jnp.zeros(()), batch_axes(mesh))
    zeros = lambda leaf: vary(jnp.zeros(leaf.shape, leaf.dtype), varying_axes(leaf))
    return jax.lax.scan(add, (loss, jax.tree.map(zeros, model)), parts)[0]
