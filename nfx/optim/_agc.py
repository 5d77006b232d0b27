"""Adaptive gradient clipping (AGC)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from nfx._tree import mask_by_path
from nfx._units import unit_axes, Units


# The official code divides by the norm of the gradient, no smaller than this.
_NORM_FLOOR = 1e-6


def unitwise_norm(x: Float[Array, "*shape"], units: Units) -> Float[Array, "*units"]:
    """Computes the L2 norm of each unit of `x`, in float32 or wider.

    Args:
        x: A parameter or its gradient.
        units: Axes that index units; the norm reduces all others. `()` makes the whole of
            `x` one unit.

    Returns:
        The norms, with axes of size one kept so that they broadcast against `x`.
    """
    x = x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)
    kept = {axis % x.ndim for axis in units}
    reduced = tuple(axis for axis in range(x.ndim) if axis not in kept)
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=reduced, keepdims=True))


def clip_unitwise(
    gradient: Float[Array, "*shape"],
    parameter: Float[Array, "*shape"],
    units: Units,
    *,
    clipping: float,
    eps: float = 1e-3,
) -> Float[Array, "*shape"]:
    """Shrinks each unit of `gradient` to norm at most `clipping * max(|parameter|, eps)`.

    Units within the bound come back bitwise unchanged; directions never change.

    Args:
        gradient: Gradient of `parameter`.
        parameter: The parameter, in the same layout.
        units: Axes that index units: see `unitwise_norm`.
        clipping: Largest ratio of gradient norm to parameter norm; dimensionless. The paper
            calls it lambda.
        eps: Floor on the parameter norm, so that units that start at zero can learn.

    References:
        Brock et al. (2021), arXiv:2102.06171, equation 3; official code, `optim.SGD_AGC`.
    """
    norm, bound = _norm_and_bound(gradient, parameter, units, clipping, eps)
    scale = (bound / jnp.maximum(norm, _NORM_FLOOR)).astype(gradient.dtype)
    # A select and a product, not `lax.select` on masks of another sharding: this form works
    # on arrays sharded over any axis.
    return jnp.where(norm > bound, gradient * scale, gradient)


class ClipCount(NamedTuple):
    """How many units AGC clips.

    Attributes:
        clipped: Units over the bound.
        total: Units looked at.
    """

    clipped: Float[Array, ""]
    total: int

    @property
    def share(self) -> Float[Array, ""]:
        """Clipped units over all; zero if there are none."""
        return self.clipped / max(self.total, 1)


def count_clipped(
    gradients: PyTree,
    parameters: PyTree,
    *,
    clipping: float,
    eps: float = 1e-3,
    units: PyTree[Units] | None = None,
    exclude: Sequence[str] = (),
) -> ClipCount:
    """Counts the units of `gradients` that `adaptive_grad_clip` would clip.

    Under `jit`, beside the transform, it costs next to nothing: the norms are shared.

    Args:
        gradients: Gradients before clipping.
        parameters: Their parameters.
        clipping: As the transform's; so are `eps`, `units` and `exclude`.
        eps: See `clip_unitwise`.
        units: See `adaptive_grad_clip`.
        exclude: See `adaptive_grad_clip`.
    """

    def over(gradient: Array, parameter: Array, excluded: bool, units: Units) -> Bool[Array, "..."]:
        if excluded:
            return jnp.zeros(0, bool)
        norm, bound = _norm_and_bound(gradient, parameter, units, clipping, eps)
        return norm > bound

    units = unit_axes(parameters) if units is None else units
    masks = jax.tree.leaves(
        jax.tree.map(over, gradients, parameters, mask_by_path(gradients, exclude), units)
    )
    clipped = sum((jnp.sum(mask, dtype=jnp.float32) for mask in masks), start=jnp.zeros(()))
    return ClipCount(clipped, sum(mask.size for mask in masks))


def adaptive_grad_clip(
    clipping: float,
    eps: float = 1e-3,
    *,
    units: PyTree[Units] | None = None,
    exclude: Sequence[str] = (),
) -> optax.GradientTransformation:
    """AGC as a stateless optax transform over any pytree of parameters.

    Put it first in the chain: it bounds the gradient, not the update.

    Args:
        clipping: See `clip_unitwise`. The paper has 0.01 at batch size 4096, and larger
            values at smaller ones: 0.16 at 256 in its figure 2.
        eps: See `clip_unitwise`.
        units: For each leaf, the axes that index its units: a pytree of tuples, or a prefix
            of one. By default what the modules declare: see `nfx.unit_axes`.
        exclude: Patterns of leaf paths that are left alone; the paper's is
            `("head/weight",)`, the classifier's.

    Raises:
        ValueError: If `clipping` or `eps` is not positive; on update, if `params` is missing
            or an array's units are declared nowhere.
    """
    if clipping <= 0 or eps <= 0:
        raise ValueError(
            f"adaptive_grad_clip needs clipping > 0 and eps > 0, got clipping={clipping}, "
            f"eps={eps}. To do without clipping, leave it out of the chain."
        )

    def clip(gradient: Array, parameter: Array, excluded: bool, units: Units) -> Array:
        if excluded:
            return gradient
        return clip_unitwise(gradient, parameter, units, clipping=clipping, eps=eps)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        if params is None:
            raise ValueError(
                "adaptive_grad_clip compares gradients with parameters: call "
                "optimizer.update(gradients, state, params)."
            )
        axes = unit_axes(params) if units is None else _broadcast_units(units, params)
        excluded = mask_by_path(updates, exclude)
        return jax.tree.map(clip, updates, params, excluded, axes), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _norm_and_bound(
    gradient: Array, parameter: Array, units: Units, clipping: float, eps: float
) -> tuple[Array, Array]:
    bound = clipping * jnp.maximum(unitwise_norm(parameter, units), eps)
    return unitwise_norm(gradient, units), bound


def _broadcast_units(units: PyTree[Units], params: PyTree) -> PyTree[Units]:
    """Repeats the axes of a prefix tree for every leaf below it."""

    def is_axes(node: object) -> bool:
        return isinstance(node, tuple) and all(isinstance(axis, int) for axis in node)

    return jax.tree.map(
        lambda axes, subtree: jax.tree.map(lambda _: axes, subtree), units, params, is_leaf=is_axes
    )
