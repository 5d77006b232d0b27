"""The batch-normalized networks that normalizer-free ones replace, to measure them against."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, Shaped

from nfx.models._batch_norm_block import (
    BatchAxes,
    BatchNormBlock,
    BlockStatistics,
    build_conv,
    ConvNorm,
)
from nfx.models._batch_norm_variant import BatchNormVariant
from nfx.models._features import check_images, describe_features, FeatureInfo, Features
from nfx.nn import (
    ACTIVATIONS,
    BatchStatistics,
    block_stochastic_depth_rates,
    dropout,
    Linear,
    max_pool,
    Padding,
)


class BatchNormStage(eqx.Module):
    """Blocks at one resolution; the first may halve it."""

    blocks: tuple[BatchNormBlock, ...]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)


class NetStatistics(NamedTuple):
    """Running averages of a network: its state."""

    stem: tuple[BatchStatistics, ...]
    blocks: tuple[BlockStatistics, ...]


class BatchNormNet(eqx.Module):
    """A batch-normalized residual network, for a batch: its examples see each other.

    It takes and returns its running averages:

    >>> statistics = model.initial_statistics()
    >>> logits, statistics = model(images, statistics, batch_axes=())  # training
    >>> logits, _ = model(images, statistics)  # inference
    """

    stem: tuple[ConvNorm, ...]
    stages: tuple[BatchNormStage, ...]
    head: Linear
    stem_pool: bool = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    drop_rate: float = eqx.field(static=True)

    def __init__(
        self, variant: BatchNormVariant, *, num_classes: int, in_channels: int, key: PRNGKeyArray
    ):
        """Builds the network of a variant.

        Args:
            variant: The row to build.
            num_classes: Length of the logits.
            in_channels: Channels of the images.
            key: Randomness for all parameters.
        """
        stem_key, stages_key, head_key = jax.random.split(key, 3)
        channels = (in_channels, *variant.stem_widths)
        keys = jax.random.split(stem_key, len(variant.stem_widths))
        self.stem = tuple(
            build_conv(
                inputs, outputs, variant.stem_kernel, stride=stride, padding=variant.padding, key=k
            )
            for inputs, outputs, stride, k in zip(
                channels[:-1], channels[1:], variant.stem_strides, keys, strict=True
            )
        )
        self.stages = _build_stages(variant, key=stages_key)
        initializer = jax.nn.initializers.normal(0.01)
        self.head = Linear(variant.widths[-1], num_classes, initializer=initializer, key=head_key)
        self.stem_pool = variant.stem_pool
        self.padding = variant.padding
        self.activation = variant.activation
        self.drop_rate = variant.drop_rate

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.stem[0].conv.weight.shape[2]

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self.head.bias.shape[0]

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Channels and stride of the feature maps: the stem's, each stage's, the last."""
        stem_stride = math.prod(layer.conv.stride for layer in self.stem)
        return describe_features(
            (self.stem[-1].conv.weight.shape[-1], stem_stride * (2 if self.stem_pool else 1)),
            [
                (stage.blocks[0].conv2.conv.weight.shape[-1], stage.blocks[0].stride)
                for stage in self.stages
            ],
            self.head.weight.shape[0],
        )

    def initial_statistics(self) -> NetStatistics:
        """Returns the running averages to start with."""
        return NetStatistics(
            tuple(layer.norm.initial_statistics() for layer in self.stem),
            tuple(block.initial_statistics() for stage in self.stages for block in stage.blocks),
        )

    def __call__(
        self,
        images: Shaped[Array, "..."],
        statistics: NetStatistics,
        *,
        batch_axes: BatchAxes = None,
        keys: Key[Array, " n"] | None = None,
    ) -> tuple[Float[Array, "n classes"], NetStatistics]:
        """Computes the logits of images of shape `(n, height, width, channels)`.

        Args:
            images: Normalized pixels, floating point, of any size.
            statistics: The running averages.
            batch_axes: In training, the axes of the mesh that the batch is split over, possibly
                none; None is inference: see `nfx.nn.BatchNorm`.
            keys: Randomness of stochastic depth and dropout, one key an image; without, neither
                happens.

        Returns:
            The logits, and the next running averages.

        Raises:
            ValueError: If `images` are not floating-point images with the right channels.
        """
        features, statistics = self.features(images, statistics, batch_axes=batch_axes, keys=keys)
        return features.logits, statistics

    def features(
        self,
        images: Shaped[Array, "..."],
        statistics: NetStatistics,
        *,
        batch_axes: BatchAxes = None,
        keys: Key[Array, " n"] | None = None,
    ) -> tuple[Features, NetStatistics]:
        """As calling the model, with the feature maps on the way, of all the images.

        See `feature_info` for their channels and strides.
        """
        check_images(images, self.in_channels, batched=True)
        count = len(statistics.blocks) + 1
        *block_keys, dropout_keys = [None] * count if keys is None else _split_each(keys, count)
        stem, stem_statistics = self._stem(images, statistics.stem, batch_axes)
        x, block_statistics, maps = stem, [], []
        blocks = iter(zip(statistics.blocks, block_keys, strict=True))
        for stage in self.stages:
            for block in stage.blocks:
                old, its_keys = next(blocks)
                x, new = block(x, old, batch_axes=batch_axes, keys=its_keys)
                block_statistics.append(new)
            maps.append(x)
        pooled = jnp.mean(x, axis=(1, 2))
        classify = lambda x, key: self.head(dropout(x, self.drop_rate, key=key))
        logits = jax.vmap(classify)(pooled, dropout_keys)
        features = Features(stem, tuple(maps), x, pooled, logits)
        return features, NetStatistics(stem_statistics, tuple(block_statistics))

    def _stem(
        self,
        x: Float[Array, "n h w i"],
        statistics: tuple[BatchStatistics, ...],
        batch_axes: BatchAxes,
    ) -> tuple[Float[Array, "n h2 w2 o"], tuple[BatchStatistics, ...]]:
        new = []
        for layer, old in zip(self.stem, statistics, strict=True):
            x, its_statistics = layer(x, old, batch_axes)
            x = ACTIVATIONS[self.activation].function(x)
            new.append(its_statistics)
        if self.stem_pool:
            x = jax.vmap(lambda image: max_pool(image, 3, 2, padding=self.padding))(x)
        return x, tuple(new)


def _split_each(keys: Key[Array, " n"], count: int) -> list[Key[Array, " n"]]:
    """Splits the key of each example: `count` times one key an example."""
    return list(jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys))


def _build_stages(variant: BatchNormVariant, *, key: PRNGKeyArray) -> tuple[BatchNormStage, ...]:
    rates = block_stochastic_depth_rates(variant.depths, variant.stochastic_depth_rate)
    keys = iter(jax.random.split(key, sum(variant.depths)))
    stages, in_channels = [], variant.stem_widths[-1]
    for stage, out_channels in enumerate(variant.widths):
        blocks = []
        for index in range(variant.depths[stage]):
            block = BatchNormBlock(
                variant,
                in_channels,
                out_channels,
                groups=variant.groups[stage],
                stride=variant.strides[stage] if index == 0 else 1,
                stochastic_depth_rate=rates[stage][index],
                key=next(keys),
            )
            blocks.append(block)
            in_channels = out_channels
        stages.append(BatchNormStage(tuple(blocks)))
    return tuple(stages)
