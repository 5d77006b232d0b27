"""Adaptive gradient clipping (AGC)."""

import functools as ft
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Inexact, PyTree, ScalarLike

from nfx._dtypes import at_least_single
from nfx._layout import Units
from nfx._names import check_choice
from nfx._tree import as_patterns, check_patterns, leaves_by_path, mask_by_path
from nfx._units import LeafUnits, list_units, tensor_axes, unit_axes
from nfx.optim._states import find_states


# Axes for each leaf: said, worked out from the parameters, or by default those of the modules.
UnitsArgument = PyTree[Units] | Callable[[PyTree], PyTree[Units]] | None

NonFinite = Literal["propagate", "zero_unit", "zero_step"]

# The implementations in use, as arguments of `adaptive_grad_clip`. They differ in what a unit is
# and in what they leave alone: see `docs/agc.md`.
AGC_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    # The paper: gains and biases are one unit each; the classifier's weight is left alone.
    "deepmind": {"clipping": 0.01, "eps": 1e-3, "units": unit_axes, "exclude": ("head/weight",)},
    # timm, `adaptive_clip_grad`: gains, of shape (O, 1, 1, 1) there, are clipped one by one.
    "timm": {
        "clipping": 0.01,
        "eps": 1e-3,
        "units": ft.partial(unit_axes, overrides={"norm/gain": "... c ->", "gain": "... o -> o"}),
        "exclude": ("head/weight", "head/bias"),
    },
    # DreamerV3: each tensor is one unit.
    "tensor": {"clipping": 0.3, "eps": 1e-3, "units": tensor_axes, "exclude": ()},
})  # fmt: skip


def unitwise_norm(
    x: Inexact[Array, "*shape"], units: Units, *, exponent: int = 0
) -> Float[Array, "*units"]:
    """Computes the L2 norm of each unit of `2**exponent * x`, in float32 or wider.

    Squares of float32 are of use between about 1e-19 and 1e19; the exponent moves that range. A
    power of two changes no digit, so within the range the norm is `2**exponent` times that of
    `x`, bit for bit.

    Args:
        x: A parameter or its gradient.
        units: Axes that index units; the norm reduces all others. `()` makes the whole of
            `x` one unit.
        exponent: Of the factor.

    Returns:
        The norms, with axes of size one kept so that they broadcast against `x`. Their gradient
        at zero is zero.
    """
    x = jnp.abs(x) if jnp.iscomplexobj(x) else x
    x = x.astype(at_least_single(x.dtype))
    kept = {axis % x.ndim for axis in units}
    reduced = tuple(axis for axis in range(x.ndim) if axis not in kept)
    if exponent:
        # Behind a barrier, or XLA computes x * x first, which overflows, and then the factor.
        x = x * jax.lax.optimization_barrier(jnp.asarray(2.0**exponent, x.dtype))
    return _root(jnp.sum(jnp.square(x), axis=reduced, keepdims=True))


@jax.custom_jvp
def _root(x: Array) -> Array:
    """The square root, whose derivative at zero is zero: units may start there."""
    return jnp.sqrt(x)


@_root.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    root = _root(*primals)
    is_zero = root == 0
    slope = jnp.where(is_zero, 0, 0.5 / jnp.where(is_zero, 1, root))
    return root, slope * tangents[0]


def clip_unitwise(
    gradient: Inexact[Array, "*shape"],
    parameter: Inexact[Array, "*shape"],
    units: Units,
    *,
    clipping: ScalarLike,
    eps: ScalarLike = 1e-3,
) -> Inexact[Array, "*shape"]:
    """Shrinks each unit of `gradient` to norm at most `clipping * max(|parameter|, eps)`.

    Units within the bound come back bitwise unchanged; directions never change. A unit with NaN
    or infinity in it keeps what is not finite, as NaN.

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
    bound, norm = bound_and_norm(gradient, parameter, units, clipping, eps)
    return _shrink(gradient, bound, norm)


def bound_and_norm(
    gradient: Array, parameter: Array, units: Units, clipping: ScalarLike, eps: ScalarLike
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Returns each unit's bound and its gradient's norm, both times the same power of two.

    The power moves the range in which squares are of use up as far as `eps` allows: well below
    it no norm matters. With the usual 1e-3 a norm may be 6e26.
    """
    known = isinstance(eps, (int, float))  # and not a value that a schedule computes
    # `eps` comes to about 2**-35, well above the 2**-63 below which squares lose digits.
    exponent = min(0, -math.floor(35 + math.log2(eps if known else 1e-3)))
    floor = eps * 2.0**exponent
    size = unitwise_norm(parameter, units, exponent=exponent)
    return jnp.multiply(clipping, jnp.maximum(size, floor)), unitwise_norm(
        gradient, units, exponent=exponent
    )


def _shrink(gradient: Array, bound: Array, norm: Array) -> Array:
    scale = bound / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
    wide = gradient.dtype if jnp.iscomplexobj(gradient) else scale.dtype
    shrunk = (gradient.astype(wide) * scale.astype(wide)).astype(gradient.dtype)
    # A select and a product, not `lax.select` on masks of another sharding: this form works
    # on arrays sharded over any axis.
    return jnp.where(scale < 1, shrunk, gradient)


class Remark:
    """What rides along in a pytree and takes no part in comparing it with another.

    Attributes:
        content: Anything.
    """

    def __init__(self, content: Any):
        """Wraps the content."""
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remark)

    def __hash__(self) -> int:
        return hash(Remark)


class ClipState(eqx.Module):
    """State of `adaptive_grad_clip`: no array, but what it does, for `nfx.optim.describe`.

    Attributes:
        remark: The leaves that are clipped, and their units.
    """

    remark: Remark = eqx.field(static=True)


def clipped_leaves(opt_state: optax.OptState) -> tuple[LeafUnits, ...]:
    """Returns what `adaptive_grad_clip` clips, from the state of a chain with it."""
    states = find_states(opt_state, ClipState)
    return tuple(leaf for state in states for leaf in state.remark.content)


class ClipRule(NamedTuple):
    """What is clipped and how: the checked arguments of `adaptive_grad_clip`."""

    clipping: ScalarLike
    eps: ScalarLike
    units: UnitsArgument
    exclude: tuple[str, ...]
    nonfinite: NonFinite

    def axes(self, params: PyTree) -> PyTree:
        """Returns the axes that index the units of each leaf, excluded or not."""
        if self.units is None:
            return unit_axes(params)
        if jax.tree_util.all_leaves([self.units]) and callable(self.units):  # and not a module
            return self.units(params)
        return _broadcast_units(self.units, params)

    def units_or_none(self, params: PyTree) -> list[LeafUnits | None]:
        """Lists the units of each leaf, or None where it is excluded."""
        excluded = jax.tree.leaves(mask_by_path(params, self.exclude))
        leaves = list_units(params, self.axes(params))
        return [None if out else leaf for leaf, out in zip(leaves, excluded, strict=True)]

    def triples(
        self, gradients: PyTree, params: PyTree
    ) -> Iterator[tuple[Array, Array, LeafUnits | None]]:
        """Yields each gradient with its parameter and its units, None where it is excluded."""
        leaves, structure = jax.tree.flatten(gradients)
        yield from zip(
            leaves, structure.flatten_up_to(params), self.units_or_none(params), strict=True
        )


def clip_rule(
    clipping: ScalarLike,
    eps: ScalarLike = 1e-3,
    *,
    units: UnitsArgument = None,
    exclude: str | Sequence[str] = (),
    nonfinite: NonFinite = "propagate",
) -> ClipRule:
    """Checks the arguments of `adaptive_grad_clip`, and raises as it does."""
    if any(isinstance(x, (int, float)) and not x > 0 for x in (clipping, eps)):
        raise ValueError(
            f"adaptive_grad_clip needs clipping > 0 and eps > 0, got clipping={clipping}, "
            f"eps={eps}. To do without clipping, leave it out of the chain."
        )
    check_choice("nonfinite", nonfinite, get_args(NonFinite))
    return ClipRule(clipping, eps, units, as_patterns(exclude), nonfinite)


def adaptive_grad_clip(
    clipping: ScalarLike,
    eps: ScalarLike = 1e-3,
    *,
    units: UnitsArgument = None,
    exclude: str | Sequence[str] = (),
    nonfinite: NonFinite = "propagate",
) -> optax.GradientTransformation:
    """AGC as a stateless optax transform over any pytree of parameters.

    Put it first in the chain: it bounds the gradient, not the update. Before an optimizer that
    divides the scale of the gradient out, as Adam, it means little: see `describe`. Inside
    `jax.shard_map` a unit has to be whole on its device, and a device knows its own part alone.

    Args:
        clipping: See `clip_unitwise`. The smaller the batch, the larger it can be: the paper
            trains at batch size 4096 with 0.01, and sweeps both in its figure 2. A schedule goes
            through `optax.inject_hyperparams(adaptive_grad_clip, static_args=("units",))`.
        eps: See `clip_unitwise`.
        units: For each leaf, the axes that index its units: a pytree of tuples, a prefix of one,
            or a function from the parameters to one. By default what the modules declare:
            `nfx.unit_axes`.
        exclude: Patterns of leaf paths that are not clipped; the paper's is `"head/weight"`, the
            classifier's. A pattern is a regular expression of a whole path, or of the end of one
            after a slash: all that is below `head` is `"head/.*"`.
        nonfinite: What becomes of a unit whose gradient has NaN or infinity in it, or a norm
            beyond 6e26. `"propagate"` passes NaN on, and zeroes a unit of finite gradients whose
            norm overflows; `"zero_unit"` zeroes it, and `"zero_step"` the whole step. Count such
            units with `clip_telemetry`. Zeros still let weights decay and momentum move them: to
            leave everything as it is, propagate, and wrap the chain in `optax.apply_if_finite`.

    Warns:
        UserWarning: On init, if a pattern leaves nothing out.

    Raises:
        ValueError: If `clipping` or `eps` is not positive; on init or update, if `params` is
            missing or an array's units are declared nowhere.
    """
    rule = clip_rule(clipping, eps, units=units, exclude=exclude, nonfinite=nonfinite)
    return clip_by_rule(rule, warns=True)


def clip_by_rule(rule: ClipRule, *, warns: bool) -> optax.GradientTransformation:
    """As `adaptive_grad_clip`.

    Args:
        rule: What is clipped, and how.
        warns: Whether to, if a pattern leaves nothing out: of what is frozen it does not.
    """

    def init(params: PyTree) -> Any:
        if warns:
            _warn_of_no_match(rule.exclude, params)
        leaves = tuple(leaf for leaf in rule.units_or_none(params) if leaf is not None)
        return ClipState(Remark(leaves))

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        if params is None:
            raise ValueError(
                "adaptive_grad_clip compares gradients with parameters: call "
                "optimizer.update(gradients, state, params)."
            )
        clipped = _clip_leaves(rule, updates, params)
        return jax.tree.unflatten(jax.tree.structure(updates), clipped), state

    return optax.GradientTransformation(init, update)


def _warn_of_no_match(exclude: Sequence[str], params: PyTree) -> None:
    try:
        check_patterns(exclude, list(leaves_by_path(params)), "leaves")
    except ValueError as error:
        words = f"adaptive_grad_clip clips what it may be meant to leave alone: {error}"
        warnings.warn(words, stacklevel=3)


def _clip_leaves(rule: ClipRule, gradients: PyTree, params: PyTree) -> list[Array]:
    clipped, finite = [], []
    for gradient, parameter, leaf in rule.triples(gradients, params):
        if leaf is None:
            clipped.append(gradient)
            if rule.nonfinite == "zero_step":
                finite.append(jnp.isfinite(gradient))
            continue
        bound, norm = bound_and_norm(gradient, parameter, leaf.axes, rule.clipping, rule.eps)
        finite.append(jnp.isfinite(norm))
        shrunk = _shrink(gradient, bound, norm)
        clipped.append(
            _zero_unless(finite[-1], shrunk) if rule.nonfinite == "zero_unit" else shrunk
        )
    if rule.nonfinite == "zero_step":
        whole = ft.reduce(jnp.logical_and, map(jnp.all, finite), jnp.asarray(True))
        clipped = [_zero_unless(whole, x) for x in clipped]
    return clipped


def _zero_unless(condition: Bool[Array, "..."], x: Array) -> Array:
    return jnp.where(condition, x, jnp.zeros((), x.dtype))


def _broadcast_units(units: PyTree[Units], params: PyTree) -> PyTree[Units]:
    """Repeats the axes of a prefix tree for every leaf below it."""

    def is_axes(node: object) -> bool:
        return isinstance(node, tuple) and all(isinstance(axis, int) for axis in node)

    return jax.tree.map(
        lambda axes, subtree: jax.tree.map(lambda _: axes, subtree), units, params, is_leaf=is_axes
    )
