"""The law of sharding: where arrays are changes nothing."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import PyTree

from nfx.testing._law import LawViolation, matching_leaves, violated


def check_sharding_invariant(
    fn: Callable[..., PyTree], *arguments: PyTree, rtol: float = 1e-5
) -> None:
    """Checks that a jitted function gives the same whichever axis its arguments are split over.

    Over all devices, in JAX's Auto and Explicit modes, for the first axis of every array, then
    for the second and so on: those that divide are split, the others are whole on every device.
    A sampler is such a function too: of keys, or of the indices of examples.

    >>> check_sharding_invariant(lambda keys: jax.vmap(jax.random.uniform)(keys), keys)

    Args:
        fn: A function of pytrees of arrays.
        *arguments: Its arguments; by default an array of normal numbers whose every axis divides.
        rtol: Largest error over the largest entry of a result. Whole numbers must be equal.

    Raises:
        LawViolation: With the result, the axis and the mode that differ.
        ValueError: If there is one device, or no axis of an argument divides.
    """
    try:
        expect_sharding_invariant(fn, *arguments, rtol=rtol)
    except LawViolation as violation:
        statement = "the result is the same whichever axis the arguments are split over"
        raise violated("sharding", statement, violation) from violation.__cause__


def expect_sharding_invariant(
    fn: Callable[..., PyTree], *arguments: PyTree, rtol: float = 1e-5
) -> None:
    """As `check_sharding_invariant`, for a law that states more."""
    count = jax.device_count()
    if count < 2:
        raise ValueError(
            "The law of sharding takes several devices, and there is one. On CPU, set "
            "XLA_FLAGS=--xla_force_host_platform_device_count=8 before Python starts."
        )
    if not arguments:
        arguments = (jax.random.normal(jax.random.key(0), (2 * count, count, count)),)
    sizes = [size for x in jax.tree.leaves(arguments) for size in x.shape]
    if not any(size % count == 0 for size in sizes):
        raise ValueError(
            f"No axis of the arguments can be split over {count} devices, so that the law would "
            f"hold of anything: give arrays with axes whose sizes {count} divides."
        )
    whole = jax.jit(fn)(*arguments)
    for mesh, axis in _placements(arguments, count):
        with jax.set_mesh(mesh):
            place = lambda x, mesh=mesh, axis=axis: jax.device_put(x, _split(x, mesh, axis))
            try:
                split = jax.jit(lambda *args: fn(*args))(*jax.tree.map(place, arguments))
            except Exception as error:
                raise LawViolation(
                    f"{_described(mesh, axis)} it raises {type(error).__name__}: {error}"
                ) from error
        _expect_equal(split, whole, _described(mesh, axis), rtol)


def _placements(arguments: PyTree, count: int) -> Iterator[tuple[Mesh, int]]:
    axes = max(x.ndim for x in jax.tree.leaves(arguments))
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((count,), ("devices",), axis_types=(axis_type,))
        yield from ((mesh, axis) for axis in range(axes))


def _split(x: Any, mesh: Mesh, axis: int) -> NamedSharding:
    divides = axis < x.ndim and x.shape[axis] % mesh.size == 0
    return NamedSharding(mesh, P(*[None] * axis, "devices") if divides else P())


def _described(mesh: Mesh, axis: int) -> str:
    (mode,) = mesh.axis_types
    return f"With axis {axis} of every array split over {mesh.size} devices ({mode.name} mode)"


def _expect_equal(split: PyTree, whole: PyTree, where: str, rtol: float) -> None:
    for path, actual, expected in matching_leaves(split, whole):
        if jnp.issubdtype(actual.dtype, jax.dtypes.prng_key):
            actual, expected = jax.random.key_data(actual), jax.random.key_data(expected)
        exact = not jnp.issubdtype(actual.dtype, jnp.inexact)
        actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
        largest = np.max(np.abs(expected), where=np.isfinite(expected), initial=0)
        tolerance = 0 if exact else rtol * largest
        same = np.isclose(actual, expected, rtol=0, atol=tolerance, equal_nan=True)
        if not np.all(same):
            raise LawViolation(
                f"{where}, {np.sum(~same)} of {same.size} entries of result "
                f"{path or 'alone'!r} are off, the first being {actual[~same][0]:.6g} "
                f"and not {expected[~same][0]:.6g}; the largest is {largest:.3g}."
            )
