"""From the part of a parameter that a device keeps to what it computes with, and back."""

import functools as ft
from collections.abc import Sequence
from typing import get_args, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

from nfx._dtypes import Dtype
from nfx._varying import vary
from nfx.sharding._mesh import BATCH_AXES
from nfx.sharding._rules import spec_axes


class Communication(NamedTuple):
    """In which dtypes parameters and gradients go between devices. None is a parameter's own.

    Attributes:
        gather_dtype: Of parameters that are gathered. They are cast before and cast back after,
            so that with "bfloat16" half the bytes move, and kernels are rounded before they are
            standardized.
        reduce_dtype: Of gradients while they are added up over the batch.
    """

    gather_dtype: Dtype | None = None
    reduce_dtype: Dtype | None = None


def collect(
    params: PyTree, specs: PyTree[P], batch_axes: Sequence[str], communication: Communication
) -> PyTree:
    """Gathers what is split over the axes of the batch; inside `jax.shard_map`.

    Its derivative adds gradients up over the batch: one reduce-scatter for each leaf that was
    gathered, and an all-reduce over the axes that remain.

    Args:
        params: A device's part of the parameters.
        specs: How they are split: see `partition_specs`. Axes that do not split the batch, as
            "model", stay split.
        batch_axes: The axes of the mesh that the batch is split over.
        communication: In which dtypes.

    Raises:
        ValueError: If a dtype is none of those.
    """
    for name, dtype in communication._asdict().items():
        if dtype not in (*get_args(Dtype), None):
            raise ValueError(f"{name}={dtype!r} must be 'float32', 'bfloat16' or None.")
    if not batch_axes:
        return params
    return jax.tree.map(
        lambda leaf, spec: _collect_leaf(_split_of(spec), tuple(batch_axes), communication, leaf),
        params,
        specs,
    )


class _Split(NamedTuple):
    """Which axis of an array is split over the batch's axes of the mesh, and over which."""

    dimension: int
    axes: tuple[str, ...]


def _split_of(spec: P) -> _Split | None:
    for dimension, entry in enumerate(spec):
        axes = tuple(axis for axis in spec_axes(entry) if axis in BATCH_AXES)
        if axes:
            return _Split(dimension, axes)
    return None


@ft.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _collect_leaf(
    split: _Split | None,
    batch_axes: tuple[str, ...],
    communication: Communication,
    leaf: Float[Array, "..."],
) -> Float[Array, "..."]:
    whole = leaf
    if split is not None:
        sent = leaf.astype(communication.gather_dtype or leaf.dtype)
        parts = jax.lax.all_gather(sent, split.axes)
        whole = _joined(parts, split.dimension)
    return vary(whole, batch_axes).astype(leaf.dtype)


def _collect_forward(
    split: _Split | None,
    batch_axes: tuple[str, ...],
    communication: Communication,
    leaf: Float[Array, "..."],
) -> tuple[Array, None]:
    return _collect_leaf(split, batch_axes, communication, leaf), None


def _collect_backward(
    split: _Split | None,
    batch_axes: tuple[str, ...],
    communication: Communication,
    _: None,
    gradient: Float[Array, "..."],
) -> tuple[Array]:
    dtype = gradient.dtype
    gradient = gradient.astype(communication.reduce_dtype or dtype)
    others = batch_axes
    if split is not None:
        parts = _parts(gradient, split.dimension, jax.lax.axis_size(split.axes))
        gradient = jax.lax.psum_scatter(parts, split.axes)
        others = tuple(axis for axis in batch_axes if axis not in split.axes)
    gradient = jax.lax.psum(gradient, others) if others else gradient
    return (gradient.astype(dtype),)


# Collectives are over a first axis: of others, the compiler for TPUs refuses some.


def _joined(parts: Float[Array, "parts ..."], dimension: int) -> Float[Array, "..."]:
    moved = jnp.moveaxis(parts, 0, dimension)
    shape = list(parts.shape[1:])
    shape[dimension] *= parts.shape[0]
    return moved.reshape(shape)


def _parts(whole: Float[Array, "..."], dimension: int, count: int) -> Float[Array, "parts ..."]:
    shape = list(whole.shape)
    shape[dimension : dimension + 1] = [count, shape[dimension] // count]
    return jnp.moveaxis(whole.reshape(shape), dimension, 0)


_collect_leaf.defvjp(_collect_forward, _collect_backward)
