"""Affine map with its outputs last."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, PRNGKeyArray


class Linear(eqx.Module):
    """`x @ weight + bias`, with `weight` laid out `IO` as every nfx kernel has outputs last.

    Attributes:
        axis_name: The axis of the mesh over which the input is split, or None: see
            `nfx.graph.split_channels`.
    """

    unit_axes: ClassVar = {"weight": "i o -> o", "bias": "o ->"}

    weight: Float[Array, "i o"]
    bias: Float[Array, " o"]
    axis_name: str | None = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        initializer: Initializer | None = None,
        key: PRNGKeyArray,
    ):
        """Draws the weight; the bias is zeros.

        Args:
            in_features: Length of the input vector.
            out_features: Length of the output vector.
            initializer: Of the weight. By default a normal of standard deviation
                `1 / sqrt(in_features)` cut off at two of them, as Haiku's `Linear`.
            key: Randomness for the weight.
        """
        if initializer is None:
            initializer = jax.nn.initializers.truncated_normal(1 / math.sqrt(in_features))
        self.weight = initializer(key, (in_features, out_features))
        self.bias = jnp.zeros(out_features)
        self.axis_name = None

    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " o"]:
        """Maps one vector, in its dtype."""
        y = x @ self.weight.astype(x.dtype)
        y = y if self.axis_name is None else jax.lax.psum(y, self.axis_name)
        return y + self.bias.astype(x.dtype)
