"""What an optimizer does to each leaf of a model, as a table to read before training."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from nfx._layout import Units
from nfx._names import did_you_mean
from nfx._tree import leaves_by_path
from nfx._units import LeafUnits
from nfx.optim._agc import adaptive_grad_clip, AGC_PRESETS, clipped_leaves, ClipState
from nfx.optim._states import find_states


class LeafTreatment(NamedTuple):
    """What an optimizer does to a leaf.

    Attributes:
        path: Of the leaf.
        shape: Its shape.
        axes: The axes that index its units, or None where it is not clipped.
        units: How many units there are; zero where it is not clipped.
        decayed: Whether it shrinks without a gradient.
    """

    path: str
    shape: tuple[int, ...]
    axes: Units | None
    units: int
    decayed: bool


class Description(NamedTuple):
    """What an optimizer does to a model. `print` shows it as a table.

    Attributes:
        leaves: One row a leaf, in order.
        note: What is wrong with the chain, if something is.
    """

    leaves: tuple[LeafTreatment, ...]
    note: str = ""

    def __str__(self) -> str:
        """Renders the table, and the sums below it."""
        rows = [("leaf", "shape", "unit axes", "units", "clipped", "decayed")]
        rows += [_row(leaf) for leaf in self.leaves]
        clipped = [leaf for leaf in self.leaves if leaf.axes is not None]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines.append(
            f"{sum(leaf.units for leaf in clipped):,} units in {len(clipped)} of "
            f"{len(self.leaves)} leaves are clipped; "
            f"{sum(leaf.decayed for leaf in self.leaves)} leaves are decayed."
        )
        return "\n".join([*lines, self.note] if self.note else lines)

    __repr__ = __str__


# Optimizers whose update does not change when the gradient is scaled: after these, clipping bounds
# the update.
_SCALE_INVARIANT = (
    optax.ScaleByAdamState,
    optax.ScaleByBeliefState,
    optax.ScaleByLionState,
    optax.ScaleByRmsState,
    optax.ScaleByTrustRatioState,
)


def describe(optimizer: optax.GradientTransformation | str, params: PyTree) -> Description:
    """Describes what an optimizer does to each leaf of a model.

    >>> print(describe("deepmind", model))
    >>> print(describe(optax.chain(adaptive_grad_clip(0.01), optax.sgd(0.1)), model))

    Clipping is read off the state of `adaptive_grad_clip`, wherever in the chain it is. Decay, and
    whether the scale of the gradient matters, are found out by two steps on a small copy of the
    tree, so decay goes unseen if the learning rate is zero in both.

    Args:
        optimizer: An optax chain whose update needs gradients and parameters alone, or a name of
            `AGC_PRESETS`.
        params: The parameters; they may be abstract.

    Warns:
        UserWarning: If clipping comes before an optimizer that divides the scale of the gradient
            out again, as Adam and Lion do: a unit that is always clipped, or never, is updated
            as if there were no clipping.

    Raises:
        ValueError: If there is no such preset, or an array's units are declared nowhere.
    """
    if isinstance(optimizer, str):
        if optimizer not in AGC_PRESETS:
            raise ValueError(
                f"Unknown preset {optimizer!r}. {did_you_mean(optimizer, AGC_PRESETS)}"
            )
        optimizer = adaptive_grad_clip(**AGC_PRESETS[optimizer])
    opt_state = jax.eval_shape(optimizer.init, params)
    units = {leaf.path: leaf for leaf in clipped_leaves(opt_state)}
    still, once, twice = (_moves(optimizer, params, gradient) for gradient in (0.0, 0.01, 0.02))
    leaves = tuple(
        _treatment(path, leaf, units.get(path), still[path] != 0)
        for path, leaf in leaves_by_path(params).items()
    )
    scale_is_lost = _clips_first(opt_state) and any(
        abs(twice[path] - once[path]) < 0.01 * abs(once[path] - still[path]) for path in units
    )
    return Description(leaves, _warn() if scale_is_lost else "")


def _warn() -> str:
    note = (
        "Adaptive gradient clipping comes before an optimizer that divides the scale of the "
        "gradient out again, as Adam: all that is left of it is how the clipped share changes from "
        "step to step. The paper clips before SGD with momentum."
    )
    warnings.warn(note, stacklevel=3)
    return note


def _treatment(path: str, leaf: Any, units: LeafUnits | None, decayed: bool) -> LeafTreatment:
    axes, count = (None, 0) if units is None else (units.axes, units.number)
    return LeafTreatment(path, tuple(leaf.shape), axes, count, decayed)


def _row(leaf: LeafTreatment) -> tuple[str, ...]:
    if leaf.axes is None:
        axes, units = "", ""
    else:
        axes, units = str(leaf.axes) if leaf.axes else "whole", f"{leaf.units:,}"
    clipped = "excluded" if leaf.axes is None else "clipped"
    decayed = "decayed" if leaf.decayed else ""
    return leaf.path, str(leaf.shape), axes, units, clipped, decayed


def _clips_first(opt_state: PyTree) -> bool:
    """Whether clipping is in the chain, before the optimizers whose update has no scale."""
    states = find_states(opt_state, ClipState, *_SCALE_INVARIANT)
    return bool(states) and isinstance(states[0], ClipState)


def _moves(
    optimizer: optax.GradientTransformation, params: PyTree, gradient: float
) -> dict[str, float]:
    """How each leaf of a small copy moves in two steps: the first rate may be zero.

    Its parameters are so large, for gradients as small, that these are not clipped.
    """
    filled = lambda value: jax.tree.map(
        lambda leaf: jnp.full((1,) * len(leaf.shape), value, leaf.dtype), params
    )
    small, gradients = filled(1e4), filled(gradient)
    optimizer = optax.with_extra_args_support(optimizer)
    state, moved = optimizer.init(small), dict.fromkeys(leaves_by_path(small), 0.0)
    for _ in range(2):
        updates, state = optimizer.update(gradients, state, small, grad_fn=lambda *_: gradients)
        for path, update in leaves_by_path(updates).items():
            moved[path] += float(jnp.sum(update))
    return moved
