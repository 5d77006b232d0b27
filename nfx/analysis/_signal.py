"""How the signal's mean and variance go through the depth of a network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfx.graph import module_paths, taps
from nfx.models import Features, NFNet


class Signal(NamedTuple):
    """What the statistics are taken of, for one image.

    Attributes:
        stem: Output of the stem.
        blocks: Output of each block, in order.
        residuals: Each block's residual branch, before it is dropped and scaled.
    """

    stem: Float[Array, "h w c"]
    blocks: tuple[Float[Array, "_ _ _"], ...]
    residuals: tuple[Float[Array, "_ _ _"], ...]


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
    _, signal = jax.vmap(tap_signal(model))(images)
    return signal_statistics(signal)


def tap_signal(model: NFNet) -> Callable[..., tuple[Features, Signal]]:
    """Returns `image -> (features, signal)`, in one pass."""
    suffix = "/stochastic_depth"
    residuals = [path for path in module_paths(model) if path.endswith(suffix)]
    blocks = [path.removesuffix(suffix) for path in residuals]
    tapped = taps(model, [*blocks, *residuals], call=lambda model, image: model.features(image))

    def run(image: Float[Array, "h w c"]) -> tuple[Features, Signal]:
        features, points = tapped(image)
        outputs, branches = (tuple(points[path] for path in paths) for paths in (blocks, residuals))
        return features, Signal(features.stem, outputs, branches)

    return run


def signal_statistics(signal: Signal) -> SignalPropagation:
    """Computes the statistics of a batch of signals, `jax.vmap(tap_signal(model))(images)`."""
    means, variances = zip(*map(_moments, (signal.stem, *signal.blocks)), strict=True)
    residual_variances = [_moments(residual)[1] for residual in signal.residuals]
    return SignalPropagation(*map(jnp.stack, (means, variances, residual_variances)))


def _moments(x: Float[Array, "n h w c"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    mean = jnp.mean(x, axis=(0, 1, 2))
    return jnp.mean(jnp.square(mean)), jnp.mean(jnp.var(x, axis=(0, 1, 2)))
