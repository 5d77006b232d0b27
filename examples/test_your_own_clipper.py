"""Test a clipper of your own against the laws of AGC.

    pytest examples/test_your_own_clipper.py

`clip_gradients` is yours. It is tried on your parameters' shapes, with your idea of a unit; each
law is a test, and one that fails shows the smallest gradient and parameter that break it.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

from nfx.testing import check_clipping, CLIPPING_LAWS


# Your parameters: here of Flax, a dictionary with outputs last. Small shapes show all.
PARAMS = {
    "Conv_0": {"kernel": jnp.zeros((2, 2, 2, 3)), "bias": jnp.zeros(3)},
    "Dense_0": {"kernel": jnp.zeros((4, 2)), "bias": jnp.zeros(2)},
}

# What you call a unit: an output of a kernel, and each bias as a whole.
UNITS = {"Conv_0": {"kernel": (-1,), "bias": ()}, "Dense_0": {"kernel": (-1,), "bias": ()}}


def clip_gradients(clipping, eps=1e-3):
    """Your clipper: `clipping -> transform`."""

    def unit_norm(x):
        axes = tuple(range(x.ndim - 1)) if x.ndim > 1 else None
        wide = x.astype(jnp.float32)
        # Divided by the largest entry first, so that no square overflows or vanishes.
        largest = jnp.maximum(jnp.max(jnp.abs(wide), axis=axes, keepdims=True), 1e-30)
        squares = jnp.sum(jnp.square(wide / largest), axis=axes, keepdims=True)
        return largest * jnp.sqrt(squares)

    def clip(gradient, parameter):
        norm, bound = unit_norm(gradient), clipping * jnp.maximum(unit_norm(parameter), eps)
        shrunk = gradient.astype(jnp.float32) * (bound / norm)
        return jnp.where(norm > bound, shrunk.astype(gradient.dtype), gradient)

    def update(updates, state, params=None):
        return jax.tree.map(clip, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@pytest.mark.parametrize("law", CLIPPING_LAWS)
def test_my_clipper(law):
    checked = check_clipping(clip_gradients, like=PARAMS, units=UNITS, eps=1e-3, laws=[law])
    if not checked:
        pytest.skip(f"the law of {law} takes modules of Equinox, or several devices")
