"""A clipper, and the tree of parameters that laws try it on."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from nfx._layout import Units
from nfx._tree import mask_by_path
from nfx.nn import Linear, WSConv2d
from nfx.optim import adaptive_grad_clip, clipped_leaves, UnitsArgument
from nfx.testing._arrays import by_unit, spread_over
from nfx.testing._law import LawViolation


Factory = Callable[[float], optax.GradientTransformation]
Arrays = list[np.ndarray]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A leaf that a clipper is tried on.

    Attributes:
        path: Of the leaf.
        shape: Its shape.
        units: The axes that index its units.
        excluded: Whether it is to be left alone.
    """

    path: str
    shape: tuple[int, ...]
    units: Units
    excluded: bool

    def bounds(self, parameter: np.ndarray, clipping: float, eps: float) -> np.ndarray:
        """Returns the largest norm of each unit, in float64; infinite where it is excluded."""
        norms = unit_norms(parameter, self.units)
        return np.where(self.excluded, np.inf, clipping * np.maximum(norms, eps))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClippingSubject:
    """A clipper and what it is tried on.

    Attributes:
        transform: The clipper.
        harder: The same with a quarter of the ratio, if it can be made.
        clipping: Largest ratio of gradient norm to parameter norm.
        eps: Floor on the parameter norm.
        structure: Of the tree of parameters.
        leaves: Its leaves.
        knows_modules: Whether the tree consists of modules that tell their own units, so that a
            stack of such trees does too.
    """

    transform: optax.GradientTransformation
    harder: optax.GradientTransformation | None
    clipping: float
    eps: float
    structure: Any
    leaves: tuple[Leaf, ...]
    knows_modules: bool
    _run: Callable[..., Any]

    def clip(self, gradients: Arrays, params: Arrays) -> Arrays:
        """Clips under `jit`."""
        return self._run(self.transform, gradients, params)

    def clip_harder(self, gradients: Arrays, params: Arrays) -> Arrays:
        """Clips by a quarter of the ratio."""
        assert self.harder is not None
        return self._run(self.harder, gradients, params)

    def tree(self, leaves: Sequence[Any]) -> PyTree:
        """Puts leaves together."""
        return jax.tree.unflatten(self.structure, leaves)

    def update(self, gradients: PyTree, params: PyTree) -> PyTree:
        """Clips a tree, without `jit`."""
        return self.transform.update(gradients, self.transform.init(params), params)[0]


class _Scale(eqx.Module):
    """A scalar, as the skip gain of a residual branch."""

    unit_axes: ClassVar = {"skip_gain": "->"}

    skip_gain: Array


def example_tree() -> PyTree:
    """Returns a tree that has every kind of leaf: a small module of every layout.

    Outputs first (Equinox) and last (nfx), with and without groups, an embedding, vectors, a
    scalar, a stack of modules, a missing bias.
    """
    key = jax.random.key(0)
    linear = lambda key: eqx.nn.Linear(2, 3, key=key)
    return {
        "linear": eqx.nn.Linear(3, 2, use_bias=False, key=key),
        "conv": eqx.nn.Conv2d(2, 4, 2, groups=2, key=key),
        "ws_conv": WSConv2d(2, 3, 1, key=key),
        "matrix": Linear(3, 2, key=key),
        "embedding": eqx.nn.Embedding(3, 2, key=key),
        "norm": eqx.nn.LayerNorm(3),
        "stack": eqx.filter_vmap(linear)(jax.random.split(key, 2)),
        "scale": _Scale(jnp.zeros(())),
    }


def clipping_subject(
    clipper: optax.GradientTransformation | Factory,
    *,
    like: PyTree | None = None,
    units: UnitsArgument = None,
    exclude: Sequence[str] = (),
    clipping: float | None = None,
    eps: float = 1e-3,
) -> ClippingSubject:
    """Prepares a clipper for the laws: see `check_clipping` for the arguments."""
    tree: Any = eqx.filter(example_tree() if like is None else like, is_inexact)
    excluded = jax.tree.leaves(mask_by_path(tree, exclude))
    known = clipped_leaves(adaptive_grad_clip(1.0, units=units).init(tree))
    shapes, structure = jax.tree.flatten(tree)
    leaves = tuple(
        Leaf(path=leaf.path, shape=tuple(shape.shape), units=leaf.axes, excluded=out)
        for leaf, shape, out in zip(known, shapes, excluded, strict=True)
    )
    ratio = 0.01 if clipping is None else clipping
    if isinstance(clipper, optax.GradientTransformation):
        transform, harder = clipper, None
    else:
        transform, harder = clipper(ratio), clipper(ratio / 4)
    subject = ClippingSubject(
        transform=transform, harder=harder, clipping=ratio, eps=eps, structure=structure,
        leaves=leaves, knows_modules=units is None, _run=_runner(structure),
    )  # fmt: skip
    if clipping is not None:
        return subject
    found = _ratio(subject)
    return subject if harder else dataclasses.replace(subject, clipping=found)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is floating point, concrete or abstract."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def unit_norms(x: Any, units: Units) -> np.ndarray:
    """Returns the norm of each unit in float64: the definition."""
    return np.linalg.norm(by_unit(np.asarray(x, np.float64), units), axis=1)


def closed_form(
    gradient: np.ndarray, parameter: np.ndarray, leaf: Leaf, clipping: float, eps: float
) -> np.ndarray:
    """Clips in float64: equation 3 of arXiv:2102.06171, unit by unit."""
    gradient = np.asarray(gradient, np.float64)
    norms = unit_norms(gradient, leaf.units)
    bounds = leaf.bounds(parameter, clipping, eps)
    scales = np.divide(bounds, norms, out=np.ones_like(norms), where=norms > bounds)
    with np.errstate(invalid="ignore"):  # infinity times zero
        return gradient * spread_over(scales, leaf.shape, leaf.units)


def _runner(structure: Any) -> Callable[..., Any]:
    """Returns `(transform, gradients, params) -> clipped`, compiled once a transform."""

    def run(
        transform: optax.GradientTransformation, gradients: Arrays, params: Arrays
    ) -> list[Array]:
        tree = jax.tree.unflatten(structure, params)
        updates = jax.tree.unflatten(structure, gradients)
        clipped, _ = transform.update(updates, transform.init(tree), tree)
        return structure.flatten_up_to(clipped)

    jitted = jax.jit(run, static_argnums=0)
    return lambda *args: [np.asarray(x) for x in jitted(*args)]


def _ratio(subject: ClippingSubject) -> float:
    """Finds out by what ratio it clips: on units of one entry, where nothing can be confused."""
    ratio = _clipped_norm(subject, 1e4) / 1e4
    if not 0 < ratio < 1e5:
        raise LawViolation(
            "It does not clip: gradients 1e6 times as large as their parameters become "
            f"{ratio:.3g} times as large, where a small ratio was expected."
        )
    return ratio


def _clipped_norm(subject: ClippingSubject, size: float) -> float:
    """The norm that units with parameters of a size have after clipping, in most leaves."""
    entries = [_single_entries(leaf) for leaf in subject.leaves]
    gradients, params = ([np.float32(x) * entry for entry in entries] for x in (1e10, size))
    try:
        clipped = subject.clip(gradients, params)
    except Exception as error:
        raise LawViolation(f"It raises {type(error).__name__}: {error}") from error
    norms = [
        unit_norms(x, leaf.units)
        for x, leaf in zip(clipped, subject.leaves, strict=True)
        if not leaf.excluded
    ]
    return float(np.median(np.concatenate(norms)))


def _single_entries(leaf: Leaf) -> np.ndarray:
    """An array whose units have one entry of 1 each, and zeros."""
    rows = np.zeros(leaf.shape, np.float32)
    first = tuple(
        slice(None) if axis in {unit % len(leaf.shape) for unit in leaf.units} else slice(1)
        for axis in range(len(leaf.shape))
    )
    rows[first] = 1
    return rows
