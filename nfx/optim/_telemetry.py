"""What adaptive gradient clipping did in a step."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, ScalarLike

from nfx._units import LeafUnits
from nfx.optim._agc import bound_and_norm, clip_rule, NonFinite, UnitsArgument


class ClipTelemetry(eqx.Module):
    """How many units of each leaf were clipped, and how far off they were.

    Attributes:
        leaves: The leaves that are clipped, and their units.
        clipped: How many units of each leaf were over the bound.
        nonfinite: How many had NaN or infinity in their gradient.
        largest_ratio: The largest ratio of gradient norm to `max(parameter norm, eps)` in each
            leaf, among finite units. Over `clipping` it was brought down to that.
    """

    leaves: tuple[LeafUnits, ...] = eqx.field(static=True)
    clipped: Float[Array, " leaves"]
    nonfinite: Float[Array, " leaves"]
    largest_ratio: Float[Array, " leaves"]

    @property
    def units(self) -> int:
        """How many units there are."""
        return sum(leaf.number for leaf in self.leaves)

    @property
    def share(self) -> Float[Array, ""]:
        """Clipped units over all; zero if there are none."""
        return jnp.sum(self.clipped, axis=-1) / max(self.units, 1)

    @property
    def share_of_leaf(self) -> Float[Array, " leaves"]:
        """Clipped units of each leaf over all of it."""
        counts = [max(leaf.number, 1) for leaf in self.leaves]
        return self.clipped / jnp.asarray(counts, jnp.float32)


def clip_telemetry(
    gradients: PyTree,
    params: PyTree,
    *,
    clipping: ScalarLike,
    eps: ScalarLike = 1e-3,
    units: UnitsArgument = None,
    exclude: str | Sequence[str] = (),
    nonfinite: NonFinite = "propagate",
) -> ClipTelemetry:
    """Counts what `adaptive_grad_clip` with the same arguments does to `gradients`.

    Under `jit`, beside the transform, it costs next to nothing: the norms are shared.

    Args:
        gradients: Gradients before clipping.
        params: Their parameters.
        clipping: As of `adaptive_grad_clip`; so are the others.
        eps: See there.
        units: See there.
        exclude: See there.
        nonfinite: See there; it changes no count.
    """
    rule = clip_rule(clipping, eps, units=units, exclude=exclude, nonfinite=nonfinite)
    leaves, counts = [], []
    for gradient, parameter, leaf in rule.triples(gradients, params):
        if leaf is not None:
            leaves.append(leaf)
            bound, norm = bound_and_norm(gradient, parameter, leaf.axes, clipping, eps)
            counts.append(_count(bound, norm, clipping))
    columns = zip(*counts, strict=True) if counts else ([], [], [])
    return ClipTelemetry(tuple(leaves), *(jnp.asarray(column, jnp.float32) for column in columns))


def _count(bound: Array, norm: Array, clipping: ScalarLike) -> tuple[Array, Array, Array]:
    finite = jnp.isfinite(norm)
    clipped = jnp.sum(finite & (norm > bound), dtype=jnp.float32)
    nonfinite = jnp.sum(~finite, dtype=jnp.float32)
    ratio = jnp.max(jnp.where(finite, clipping * norm / bound, 0), initial=0)
    return clipped, nonfinite, ratio
