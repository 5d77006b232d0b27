"""An exponential moving average of the parameters, as the last link of an optax chain."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from nfx.optim._states import find_states


class EmaState(NamedTuple):
    """State of `parameter_ema`.

    Attributes:
        step: Updates so far.
        ema: The averaged parameters, with the structure of the parameters.
    """

    step: Int[Array, ""]
    ema: PyTree


def ema_decay(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """Returns `min(decay, (1 + step) / (10 + step))`: short memory while little is known.

    References:
        Official code, `optim.py`, `tf1_ema`, with the 0-based step.
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))


def parameter_ema(decay: float) -> optax.GradientTransformation:
    """Averages the parameters that the chain's update leads to; the update passes unchanged.

    Put it last. The average starts as a copy of the first parameters.

    Args:
        decay: Weight of the old average once the ramp of `ema_decay` is over: 0.99999 in the
            paper.

    Raises:
        ValueError: If `decay` is not in [0, 1), or `update` is called without `params`.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"parameter_ema needs a decay in [0, 1), got decay={decay}.")

    def init(params: PyTree) -> EmaState:
        # A copy: a step that donates its state may not donate one buffer twice.
        return EmaState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        assert isinstance(state, EmaState)
        if params is None:
            raise ValueError("parameter_ema needs params: optimizer.update(updates, state, params)")
        d = ema_decay(state.step, decay)
        new_params = optax.apply_updates(params, updates)
        ema = jax.tree.map(
            lambda old, new: (old * d + new * (1 - d)).astype(old.dtype), state.ema, new_params
        )
        return updates, EmaState(state.step + 1, ema)

    return optax.GradientTransformation(init, update)


def ema_parameters(opt_state: optax.OptState) -> PyTree:
    """Returns the averaged parameters from the state of a chain with `parameter_ema`.

    Raises:
        ValueError: If the chain has no `parameter_ema`, more than one, or one of a part of the
            parameters.
    """
    states = find_states(opt_state, EmaState)
    if len(states) != 1:
        raise ValueError(
            f"Expected one parameter_ema in the optimizer's chain, found {len(states)}."
        )
    ema = states[0].ema
    if find_states(ema, optax.MaskedNode):
        raise ValueError(
            "The average is of a part of the parameters: put parameter_ema after train_only, "
            "optax.chain(train_only(...), parameter_ema(decay)), and not inside it."
        )
    return ema
