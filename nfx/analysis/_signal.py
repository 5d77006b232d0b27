"""How the signal's mean and variance go through the depth of a network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfx.models import NFNet, Trace


class SignalPropagation(NamedTuple):
    """Statistics over a batch, averaged over channels.

    Attributes:
        squared_mean: Squared mean of each channel: after the stem, then after each block.
        variance: Variance of each channel, at the same places.
        residual_variance: Variance of each block's residual branch, before it is scaled.
    """

    squared_mean: Float[Array, " blocks_and_stem"]
    variance: Float[Array, " blocks_and_stem"]
    residual_variance: Float[Array, " blocks"]


def signal_propagation(model: NFNet, images: Float[Array, "n h w c"]) -> SignalPropagation:
    """Measures a model on a batch, without dropout and stochastic depth.

    Args:
        model: The model.
        images: Normalised images.

    References:
        Brock, De & Smith (2021), arXiv:2101.08692, section 3: signal propagation plots.
    """
    return trace_statistics(jax.vmap(model.trace)(images))


def trace_statistics(trace: Trace) -> SignalPropagation:
    """Computes the statistics of a batch of traces, `jax.vmap(model.trace)(images)`."""
    means, variances = zip(*map(_moments, (trace.stem, *trace.blocks)), strict=True)
    residual_variances = [_moments(residual)[1] for residual in trace.residuals]
    return SignalPropagation(*map(jnp.stack, (means, variances, residual_variances)))


def _moments(x: Float[Array, "n h w c"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    mean = jnp.mean(x, axis=(0, 1, 2))
    return jnp.mean(jnp.square(mean)), jnp.mean(jnp.var(x, axis=(0, 1, 2)))
