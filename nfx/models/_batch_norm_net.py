"""The batch-normalized networks that normalizer-free ones replace, to measure them against."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, Shaped

from nfx.models._features import check_image, describe_features, FeatureInfo, Features
from nfx.nn import (
    ACTIVATIONS,
    average_pool,
    BatchNorm,
    BatchStatistics,
    block_drop_rates,
    Conv2d,
    dropout,
    Linear,
    max_pool,
    Padding,
    SqueezeExcite,
    StochasticDepth,
)


AxisNames = tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNormVariant:
    """Everything that distinguishes one batch-normalized network from another.

    Attributes:
        depths: Blocks in each stage.
        widths: Output channels of each stage.
        strides: Stride of the first block of each stage.
        stem_widths: Output channels of the stem's convolutions.
        stem_strides: Their strides.
        stem_kernel: Side of their kernels.
        stem_pool: Whether a 3x3 max-pool of stride 2 ends the stem.
        expansion: Width of a block's 3x3 convolution over its outputs.
        groups: Groups of that convolution, in each stage.
        squeeze_excite_ratio: Hidden width of squeeze-excite over its channels, or None.
        pooled_shortcut: Whether a shortcut strides by average pooling (ResNet-D).
        activation: A name of `nfx.nn.ACTIVATIONS`, used without its gamma.
        padding: See `nfx.nn.window_padding`.
        stochastic_depth_rate: Drop probability that the blocks' ramp approaches.
        drop_rate: Dropout probability before the classifier.
        train_size: Side of training images, in pixels.
        test_size: Side of evaluation images, in pixels.

    References:
        He et al. (2015), arXiv:1512.03385; Xie et al. (2017), arXiv:1611.05431 (ResNeXt);
        Hu et al. (2018), arXiv:1709.01507; He et al. (2019), arXiv:1812.01187 (ResNet-D).
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    stem_widths: tuple[int, ...] = (64,)
    stem_strides: tuple[int, ...] = (2,)
    stem_kernel: int = 7
    stem_pool: bool = True
    expansion: float = 0.25
    groups: tuple[int, ...] = (1, 1, 1, 1)
    squeeze_excite_ratio: float | None = None
    pooled_shortcut: bool = False
    activation: str = "relu"
    padding: Padding = "SAME"
    stochastic_depth_rate: float = 0.0
    drop_rate: float = 0.0
    train_size: int = 224
    test_size: int = 224

    def __post_init__(self) -> None:
        """Checks that the fields agree with each other.

        Raises:
            ValueError: Naming those that do not.
        """
        if not len(self.depths) == len(self.widths) == len(self.strides) == len(self.groups):
            raise ValueError(
                f"depths={self.depths}, widths={self.widths}, strides={self.strides} and "
                f"groups={self.groups} must have one entry a stage each."
            )
        if len(self.stem_widths) != len(self.stem_strides) or not self.stem_widths:
            raise ValueError(
                f"stem_widths={self.stem_widths} and stem_strides={self.stem_strides} must have "
                "one entry a convolution each, and there must be one."
            )


class ConvNorm(eqx.Module):
    """A convolution and its normalisation."""

    conv: Conv2d
    norm: BatchNorm

    def __call__(
        self, x: Float[Array, "n h w i"], statistics: BatchStatistics, axis_names: AxisNames
    ) -> tuple[Float[Array, "n h2 w2 o"], BatchStatistics]:
        """Computes the output and the next running averages: see `BatchNorm`."""
        return self.norm(jax.vmap(self.conv)(x), statistics, axis_names=axis_names)


class BlockStatistics(NamedTuple):
    """Running averages of a block's layers."""

    conv0: BatchStatistics
    conv1: BatchStatistics
    conv2: BatchStatistics
    conv_shortcut: BatchStatistics | None


class BatchNormBlock(eqx.Module):
    """A bottleneck: `activation(shortcut(x) + drop(gate * branch(x)))`."""

    conv0: ConvNorm
    conv1: ConvNorm
    conv2: ConvNorm
    attention: SqueezeExcite | None
    conv_shortcut: ConvNorm | None
    stochastic_depth: StochasticDepth
    stride: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        variant: BatchNormVariant,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        stride: int,
        drop_rate: float,
        key: PRNGKeyArray,
    ):
        """Builds one block of `variant`; as it starts, it is its shortcut.

        Args:
            variant: What all blocks of a network share.
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            groups: Groups of the 3x3 convolution.
            stride: Stride of that convolution and of the shortcut.
            drop_rate: Probability of stochastic depth.
            key: Randomness for the kernels.
        """
        width = int(out_channels * variant.expansion)
        keys = jax.random.split(key, 5)
        conv = partial(_build_conv, padding=variant.padding)
        self.conv0 = conv(in_channels, width, 1, key=keys[0])
        self.conv1 = conv(width, width, 3, stride=stride, groups=groups, key=keys[1])
        self.conv2 = conv(width, out_channels, 1, gain=0.0, key=keys[2])
        own_stride = 1 if variant.pooled_shortcut else stride
        projects = stride > 1 or in_channels != out_channels
        self.conv_shortcut = (
            conv(in_channels, out_channels, 1, stride=own_stride, key=keys[3]) if projects else None
        )
        ratio = variant.squeeze_excite_ratio
        self.attention = None if ratio is None else SqueezeExcite(out_channels, ratio, key=keys[4])
        self.stochastic_depth = StochasticDepth(drop_rate, scale_by_keep=True)
        self.stride = stride
        self.activation = variant.activation

    def initial_statistics(self) -> BlockStatistics:
        """Returns the running averages to start with."""
        shortcut = self.conv_shortcut
        return BlockStatistics(
            self.conv0.norm.initial_statistics(),
            self.conv1.norm.initial_statistics(),
            self.conv2.norm.initial_statistics(),
            None if shortcut is None else shortcut.norm.initial_statistics(),
        )

    @jax.named_scope("nfx.models.BatchNormBlock")
    def __call__(
        self,
        x: Float[Array, "n h w i"],
        statistics: BlockStatistics,
        *,
        axis_names: AxisNames = None,
        keys: Key[Array, " n"] | None = None,
    ) -> tuple[Float[Array, "n h2 w2 o"], BlockStatistics]:
        """Computes the output for a batch, and the next running averages."""
        activation = ACTIVATIONS[self.activation].function
        branch, conv0 = self.conv0(x, statistics.conv0, axis_names)
        branch, conv1 = self.conv1(activation(branch), statistics.conv1, axis_names)
        branch, conv2 = self.conv2(activation(branch), statistics.conv2, axis_names)
        if self.attention is not None:
            branch = jax.vmap(self.attention)(branch)[:, None, None] * branch
        branch = jax.vmap(lambda x, key: self.stochastic_depth(x, key=key))(branch, keys)
        conv_shortcut = statistics.conv_shortcut
        if self.conv_shortcut is not None and conv_shortcut is not None:
            pools = self.stride > self.conv_shortcut.conv.stride
            pooled = jax.vmap(lambda image: average_pool(image, 2, 2))(x) if pools else x
            x, conv_shortcut = self.conv_shortcut(pooled, conv_shortcut, axis_names)
        return activation(x + branch), BlockStatistics(conv0, conv1, conv2, conv_shortcut)


class BatchNormStage(eqx.Module):
    """Blocks at one resolution; the first may halve it."""

    blocks: tuple[BatchNormBlock, ...]


class NetStatistics(NamedTuple):
    """Running averages of a network: its state."""

    stem: tuple[BatchStatistics, ...]
    blocks: tuple[BlockStatistics, ...]


class BatchNormNet(eqx.Module):
    """A batch-normalized residual network, for a batch: its examples see each other.

    It takes and returns its running averages:

    >>> statistics = model.initial_statistics()
    >>> logits, statistics = model(images, statistics, axis_names=())  # training
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
            _build_conv(
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
        axis_names: AxisNames = None,
        keys: Key[Array, " n"] | None = None,
    ) -> tuple[Float[Array, "n classes"], NetStatistics]:
        """Computes the logits of images of shape `(n, height, width, channels)`.

        Args:
            images: Normalised pixels, floating point, of any size.
            statistics: The running averages.
            axis_names: In training, the axes of the mesh that the batch is split over, possibly
                none; None is inference: see `nfx.nn.BatchNorm`.
            keys: Randomness of stochastic depth and dropout, one key an image; without, neither
                happens.

        Returns:
            The logits, and the next running averages.

        Raises:
            ValueError: If `images` are not floating-point images with the right channels.
        """
        features, statistics = self.features(images, statistics, axis_names=axis_names, keys=keys)
        return features.logits, statistics

    def features(
        self,
        images: Shaped[Array, "..."],
        statistics: NetStatistics,
        *,
        axis_names: AxisNames = None,
        keys: Key[Array, " n"] | None = None,
    ) -> tuple[Features, NetStatistics]:
        """As calling the model, with the feature maps on the way, of all the images.

        See `feature_info` for their channels and strides.
        """
        _check_batch(images, self.stem[0].conv.weight.shape[2])
        activation = ACTIVATIONS[self.activation].function
        x, stem_statistics = images, []
        for layer, old in zip(self.stem, statistics.stem, strict=True):
            x, new = layer(x, old, axis_names)
            x = activation(x)
            stem_statistics.append(new)
        if self.stem_pool:
            x = jax.vmap(lambda image: max_pool(image, 3, 2, padding=self.padding))(x)
        stem = x

        count = len(statistics.blocks) + 1
        split = [None] * count if keys is None else _split_each(keys, count)
        block_statistics, maps = [], []
        remaining = iter(zip(statistics.blocks, split[:-1], strict=True))
        for stage in self.stages:
            for block in stage.blocks:
                old, block_keys = next(remaining)
                x, new = block(x, old, axis_names=axis_names, keys=block_keys)
                block_statistics.append(new)
            maps.append(x)
        pooled = jnp.mean(x, axis=(1, 2))
        logits = jax.vmap(lambda x, key: self.head(dropout(x, self.drop_rate, key=key)))(
            pooled, split[-1]
        )
        features = Features(stem, tuple(maps), x, pooled, logits)
        return features, NetStatistics(tuple(stem_statistics), tuple(block_statistics))


def _check_batch(images: Array, channels: int) -> None:
    if images.ndim != 4:
        raise ValueError(
            f"A batch-normalized model takes images of shape (n, height, width, {channels}); got "
            f"shape {images.shape}."
        )
    check_image(jax.ShapeDtypeStruct(images.shape[1:], images.dtype), channels)


def _split_each(keys: Key[Array, " n"], count: int) -> list[Key[Array, " n"]]:
    """Splits the key of each example: `count` times one key an example."""
    return list(jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys))


def _build_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    gain: float = 1.0,
    padding: Padding,
    key: PRNGKeyArray,
) -> ConvNorm:
    conv = Conv2d(
        in_channels, out_channels, kernel_size, stride=stride, groups=groups, padding=padding,
        key=key,
    )  # fmt: skip
    return ConvNorm(conv, BatchNorm(out_channels, gain=gain))


def _build_stages(variant: BatchNormVariant, *, key: PRNGKeyArray) -> tuple[BatchNormStage, ...]:
    drop_rates = block_drop_rates(variant.depths, variant.stochastic_depth_rate)
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
                drop_rate=drop_rates[stage][index],
                key=next(keys),
            )
            blocks.append(block)
            in_channels = out_channels
        stages.append(BatchNormStage(tuple(blocks)))
    return tuple(stages)


# The last is nfnet_micro's shape, with one 3x3 convolution a block.
BATCH_NORM_NETS: Mapping[str, BatchNormVariant] = MappingProxyType({
    "resnet50": BatchNormVariant(),
    "se_resnext50_d": BatchNormVariant(
        stem_widths=(32, 32, 64), stem_strides=(2, 1, 1), stem_kernel=3, expansion=0.5,
        groups=(32, 32, 32, 32), squeeze_excite_ratio=1 / 16, pooled_shortcut=True,
    ),
    "se_resnext_micro": BatchNormVariant(
        depths=(1, 2, 3, 1), widths=(32, 64, 96, 96), strides=(1, 2, 2, 1), stem_widths=(16, 16),
        stem_strides=(1, 2), stem_kernel=3, stem_pool=False, expansion=0.5, groups=(1, 2, 3, 3),
        squeeze_excite_ratio=0.5, pooled_shortcut=True, activation="gelu", train_size=28,
        test_size=28,
    ),
})  # fmt: skip
