"""Channel attention."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nfx.nn._linear import Linear


class SqueezeExcite(eqx.Module):
    """A gate in (0, 1) for each channel, computed from the channels' means.

    It returns the gate alone; NF blocks multiply by twice the gate, which is 1 on average
    at initialisation and so keeps the variance.

    References:
        Hu et al. (2018), arXiv:1709.01507; official code, `SqueezeExcite`.
    """

    fc0: Linear
    fc1: Linear

    def __init__(self, channels: int, ratio: float, *, key: PRNGKeyArray):
        """Builds the two layers.

        Args:
            channels: Channels of the image to gate.
            ratio: Width of the hidden layer over `channels`, rounded down, at least one.
            key: Randomness for the weights.
        """
        hidden = max(1, int(channels * ratio))
        key0, key1 = jax.random.split(key)
        self.fc0 = Linear(channels, hidden, key=key0)
        self.fc1 = Linear(hidden, channels, key=key1)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, " c"]:
        """Computes the gate. The inner relu is plain: it carries no gamma."""
        pooled = jnp.mean(x, axis=(0, 1))
        return jax.nn.sigmoid(self.fc1(jax.nn.relu(self.fc0(pooled))))
