"""Channel attention: gates in (0, 1), one a channel, computed from the channels' means.

Modules return the gate alone. NF blocks multiply by twice the gate, which is 1 on average at
initialization and so keeps the variance.
"""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, PRNGKeyArray

from nfx.nn._channels import round_channels
from nfx.nn._linear import Linear


class SqueezeExcite(eqx.Module):
    """A gate from a bottleneck of two layers.

    References:
        Hu et al. (2018), arXiv:1709.01507; official code, `SqueezeExcite`.
    """

    fc0: Linear
    fc1: Linear

    def __init__(
        self,
        channels: int,
        ratio: float,
        *,
        multiple: int = 1,
        initializer: Initializer | None = None,
        key: PRNGKeyArray,
    ):
        """Builds the two layers.

        Args:
            channels: Channels of the image to gate.
            ratio: Width of the hidden layer over `channels`.
            multiple: What that width is rounded to: see `round_channels`.
            initializer: Of the weights: see `Linear`.
            key: Randomness for the weights.
        """
        hidden = round_channels(channels * ratio, multiple)
        key0, key1 = jax.random.split(key)
        self.fc0 = Linear(channels, hidden, initializer=initializer, key=key0)
        self.fc1 = Linear(hidden, channels, initializer=initializer, key=key1)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, " c"]:
        """Computes the gate. The inner relu is plain: it carries no gamma."""
        pooled = jnp.mean(x, axis=(0, 1))
        return jax.nn.sigmoid(self.fc1(jax.nn.relu(self.fc0(pooled))))


class EfficientChannelAttention(eqx.Module):
    """A gate from one short convolution across neighboring channels.

    References:
        Wang et al. (2020), arXiv:1910.03151; timm, `EcaModule`.
    """

    unit_axes: ClassVar = {"weight": "k ->"}

    weight: Float[Array, " k"]

    def __init__(self, channels: int, *, key: PRNGKeyArray):
        """Draws the weight from U(-1 / sqrt(k), 1 / sqrt(k)), as PyTorch does.

        Args:
            channels: Channels of the image to gate. They decide the kernel's size k: half
                of `log2(channels) + 1` rounded down, one more if that is even, at least 3.
            key: Randomness for the weight.
        """
        half = int((math.log2(channels) + 1) / 2)
        size = max(3, half if half % 2 else half + 1)
        limit = 1 / math.sqrt(size)
        self.weight = jax.random.uniform(key, (size,), minval=-limit, maxval=limit)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, " c"]:
        """Computes the gate; beyond the first and last channel there are zeros."""
        pooled = jnp.mean(x, axis=(0, 1))
        mixed = jax.lax.conv_general_dilated(
            pooled[None, :, None],
            self.weight.astype(x.dtype)[:, None, None],
            window_strides=(1,),
            padding="SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return jax.nn.sigmoid(mixed[0, :, 0])
