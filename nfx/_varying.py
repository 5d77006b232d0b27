"""Over which axes of the mesh an array differs, inside of `jax.shard_map`."""

from collections.abc import Collection

import jax
from jaxtyping import Array


def varying_axes(x: Array) -> frozenset[str]:
    """Returns the axes of the mesh over which `x` differs, by its type; outside, none."""
    return jax.typeof(x).manual_axis_type.varying


def vary(x: Array, axes: Collection[str]) -> Array:
    """Returns `x` with a type that differs over some axes too, as JAX's own operators cast it."""
    missing = tuple(axis for axis in axes if axis not in varying_axes(x))
    return jax.lax.pcast(x, missing, to="varying") if missing else x
