"""How the signal's mean and variance go through the depth of a network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfx.graph import module_paths, taps, unstack_blocks
from nfx.models import (
    BatchNormBlock,
    BatchNormNet,
    Features,
    initial_statistics,
    NetStatistics,
    NFBlock,
    NFNet,
)
from nfx.nn import WSConv2d


class Signal(NamedTuple):
    """What the statistics are taken of, for one image or for a batch.

    Attributes:
        stem: Output of the stem.
        blocks: Output of each block, in order.
        residuals: Each block's residual branch, before it is dropped and scaled.
    """

    stem: Float[Array, "*n h w c"]
    blocks: tuple[Float[Array, "*n _ _ _"], ...]
    residuals: tuple[Float[Array, "*n _ _ _"], ...]


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


def signal_propagation(
    model: NFNet | BatchNormNet,
    images: Float[Array, "n h w c"],
    statistics: NetStatistics | None = None,
) -> SignalPropagation:
    """Measures a model on a batch, without dropout and stochastic depth.

    Args:
        model: A model of `create_model`.
        images: Normalized images.
        statistics: Of a batch-normalized model, its running averages, to normalize by them; by
            default it normalizes by the batch, as in training.

    References:
        Brock, De & Smith (2021), arXiv:2101.08692, section 3: signal propagation plots.
    """
    if isinstance(model, BatchNormNet):
        return signal_statistics(_batch_norm_signal(model, images, statistics))
    _, signal = jax.vmap(tap_signal(model))(images)
    return signal_statistics(signal)


def expected_signal(model: NFNet) -> Float[Array, " blocks_and_stem"]:
    """Predicts `SignalPropagation.variance` of a normalizer-free model: the ledger.

    A block adds a branch of variance `(alpha * gain)**2` to its input, or to a projection of it,
    which starts again from one. No padding with zeros is counted and no pooling of shortcuts,
    which take variance out of what varies from pixel to pixel.

    Raises:
        ValueError: If the model is folded: alpha and the gains are in its kernels.

    References:
        Brock, De & Smith (2021), arXiv:2101.08692, section 3.
    """
    variances = [jnp.ones(())]
    for block in (block for stage in model.stages for block in stage.unstacked):
        shortcut = variances[-1] if block.conv_shortcut is None else 1.0
        variances.append(shortcut + jnp.square(block.alpha) * _squared_gain(block))
    return jnp.stack(variances)


def _squared_gain(block: NFBlock) -> Float[Array, ""]:
    """What the gains at the end of a branch multiply its variance by."""
    if not isinstance(block.conv2, WSConv2d):
        raise ValueError(
            "The model is folded: alpha and the gains are in its kernels. Give the model that it "
            "was made from."
        )
    last = jnp.mean(jnp.square(block.conv2.gain))
    return last if block.skip_gain is None else last * jnp.square(block.skip_gain)


def block_places(model: NFNet | BatchNormNet) -> list[str]:
    """Names the places of `SignalPropagation.variance`: "stem", and "2.1" as in stage.block."""
    blocks = [
        f"{number}.{block}"
        for number, stage in enumerate(model.stages, 1)
        for block in range(1, stage.depth + 1)
    ]
    return ["stem", *blocks]


def tap_signal(model: NFNet) -> Callable[..., tuple[Features, Signal]]:
    """Returns `image -> (features, signal)`, in one pass."""
    model = unstack_blocks(model)  # of a loop's inside nothing can be read
    blocks, residuals = _block_paths(model, "/stochastic_depth")
    tapped = taps(model, [*blocks, *residuals], call=lambda model, image: model.features(image))

    def run(image: Float[Array, "h w c"]) -> tuple[Features, Signal]:
        features, points = tapped(image)
        outputs, branches = (tuple(points[path] for path in paths) for paths in (blocks, residuals))
        return features, Signal(features.stem, outputs, branches)

    return run


def _block_paths(model: NFNet | BatchNormNet, end: str) -> tuple[list[str], list[str]]:
    """The paths of the blocks, and of the module in each whose output is its branch."""
    branches = [path for path in module_paths(model) if path.endswith(end)]
    return [path.removesuffix(end) for path in branches], branches


def signal_statistics(signal: Signal) -> SignalPropagation:
    """Computes the statistics of a batch of signals, `jax.vmap(tap_signal(model))(images)`."""
    means, variances = zip(*map(_moments, (signal.stem, *signal.blocks)), strict=True)
    residual_variances = [_moments(residual)[1] for residual in signal.residuals]
    return SignalPropagation(*map(jnp.stack, (means, variances, residual_variances)))


def _moments(x: Float[Array, "n h w c"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    mean = jnp.mean(x, axis=(0, 1, 2))
    return jnp.mean(jnp.square(mean)), jnp.mean(jnp.var(x, axis=(0, 1, 2)))


def _batch_norm_signal(
    model: BatchNormNet,
    images: Float[Array, "n h w c"],
    statistics: NetStatistics | None,
) -> Signal:
    """The same of a batch-normalized model, whose modules take batches."""
    paths, branches = _block_paths(model, "/conv2")
    state = initial_statistics(model) if statistics is None else statistics
    # By the statistics of the batch, or by the running averages.
    batch_axes = () if statistics is None else None
    tapped = taps(
        model, [*paths, *branches], call=lambda model, *args, **how: model.features(*args, **how)
    )
    (features, _), points = tapped(images, state, batch_axes=batch_axes)
    blocks = [block for stage in model.stages for block in stage.blocks]
    residuals = [
        _attend(block, points[path][0]) for block, path in zip(blocks, branches, strict=True)
    ]
    return Signal(features.stem, tuple(points[path][0] for path in paths), tuple(residuals))


def _attend(block: BatchNormBlock, branch: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    if block.attention is None:
        return branch
    return jax.vmap(block.attention)(branch)[:, None, None] * branch
