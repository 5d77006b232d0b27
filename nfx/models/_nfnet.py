"""Normalizer-free networks: one block, and the network around it."""

import math
from dataclasses import replace
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from nfx.models._features import (
    check_image,
    describe_features,
    FeatureInfo,
    Features,
    split_or_none,
)
from nfx.models._variant import Family, NFNetVariant
from nfx.nn import (
    Activation,
    ACTIVATIONS,
    average_pool,
    block_betas,
    block_drop_rates,
    dropout,
    EfficientChannelAttention,
    Linear,
    max_pool,
    Padding,
    SqueezeExcite,
    StochasticDepth,
    WSConv2d,
)


Attention = SqueezeExcite | EfficientChannelAttention


class NFBlock(eqx.Module):
    """A bottleneck of weight-standardized convolutions around which the signal grows.

    `y = shortcut + alpha * skip_gain * drop(branch(beta * activation(x)))`, where the shortcut
    projects the activated input, or is `x` itself. An attention multiplies the branch by twice
    its gate: at its end, or in an NF-RegNet before the last convolution.

    What a variant does not have is None: there are no switches.
    """

    unit_axes: ClassVar = {"skip_gain": ()}

    conv0: WSConv2d
    conv1: WSConv2d
    conv1b: WSConv2d | None
    inner_attention: Attention | None
    conv2: WSConv2d
    attention: Attention | None
    conv_shortcut: WSConv2d | None
    stochastic_depth: StochasticDepth
    skip_gain: Float[Array, ""] | None
    stride: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    gamma: float = eqx.field(static=True)
    alpha: float = eqx.field(static=True)
    beta: float = eqx.field(static=True)

    def __init__(
        self,
        variant: NFNetVariant,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        beta: float = 1.0,
        drop_rate: float = 0.0,
        key: PRNGKeyArray,
    ):
        """Builds one block of `variant`; as it starts, it is its shortcut.

        Args:
            variant: What all blocks of a network share.
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            stride: Stride of the first 3x3 convolution and of the shortcut.
            beta: One over the expected standard deviation of the input.
            drop_rate: Probability of stochastic depth.
            key: Randomness for the kernels.

        Raises:
            ValueError: If the width of the 3x3 convolutions is less than one group.
        """
        width, groups = variant.block_width(in_channels, out_channels)
        keys = iter(jax.random.split(key, 6))
        gamma, kernel_gamma = variant.gammas

        def conv(
            inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
        ) -> WSConv2d:
            return WSConv2d(
                inputs, outputs, size, stride=stride, groups=groups, padding=variant.padding,
                standardization=variant.standardization, gamma=kernel_gamma, key=next(keys),
            )  # fmt: skip

        self.conv0 = conv(in_channels, width, 1)
        self.conv1 = conv(width, width, 3, stride, groups)
        self.conv1b = conv(width, width, 3, groups=groups) if variant.two_convs else None
        self.conv2 = conv(width, out_channels, 1)
        if variant.skip_gain is None:
            self.conv2 = eqx.tree_at(lambda c: c.gain, self.conv2, jnp.zeros(out_channels))
        projects = stride > 1 or in_channels != out_channels
        own_stride = stride if variant.strided_shortcut else 1
        self.conv_shortcut = conv(in_channels, out_channels, 1, own_stride) if projects else None
        inner = variant.attention_after == "conv1"
        attention = _build_attention(variant, width if inner else out_channels, key=next(keys))
        self.inner_attention, self.attention = (attention, None) if inner else (None, attention)
        scales = variant.stochastic_depth == "timm"
        self.stochastic_depth = StochasticDepth(drop_rate, scale_by_keep=scales)
        self.skip_gain = None if variant.skip_gain is None else jnp.full((), variant.skip_gain)
        self.stride = stride
        self.activation = variant.activation_function
        self.gamma = gamma
        self.alpha = variant.alpha
        self.beta = beta

    @jax.named_scope("nfx.models.NFBlock")
    def __call__(
        self, x: Float[Array, "h w i"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "h2 w2 o"]:
        """Computes the output for one image."""
        activation = Activation(ACTIVATIONS[self.activation].function, self.gamma)
        activated = activation(x) * self.beta
        branch = self.conv1(activation(self.conv0(activated)))
        if self.conv1b is not None:
            branch = self.conv1b(activation(branch))
        branch = _attend(self.inner_attention, branch)
        branch = _attend(self.attention, self.conv2(activation(branch)))
        branch = self.stochastic_depth(branch, key=key)
        if self.skip_gain is not None:
            branch = branch * self.skip_gain.astype(x.dtype)
        return branch * self.alpha + self._shortcut(x, activated)

    def _shortcut(
        self, x: Float[Array, "h w i"], activated: Float[Array, "h w i"]
    ) -> Float[Array, "h2 w2 o"]:
        if self.conv_shortcut is None:
            return x
        pools = self.stride > self.conv_shortcut.stride
        return self.conv_shortcut(average_pool(activated, 2, 2) if pools else activated)


class Stage(eqx.Module):
    """Blocks at one resolution; the first may halve it."""

    blocks: tuple[NFBlock, ...]


class NFNet(eqx.Module):
    """A normalizer-free network, for one image: NFNet, NF-ResNet or NF-RegNet.

    Its variant decides which: see `nfx.models.NFNetVariant`, and `nfx.models.CONVENTIONS` for
    what the implementations in use do differently.

    Differences from the papers: none in the function; parameters are in one tree whose every
    kernel has its outputs last, and the width of a block's 3x3 convolutions counts whole
    groups, as in the official code (128 and not 192 in the first stage of the F+ variants).
    """

    stem: tuple[WSConv2d, ...]
    stages: tuple[Stage, ...]
    final_conv: WSConv2d | None
    head: Linear
    family: Family = eqx.field(static=True)
    stem_pool: bool = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    gamma: float = eqx.field(static=True)
    drop_rate: float = eqx.field(static=True)

    def __init__(
        self, variant: NFNetVariant, *, num_classes: int, in_channels: int, key: PRNGKeyArray
    ):
        """Builds the network of a variant.

        Args:
            variant: The row to build.
            num_classes: Length of the logits.
            in_channels: Channels of the images.
            key: Randomness for all parameters.

        Raises:
            ValueError: If a block is narrower than one group.
        """
        stem_key, stages_key, final_key, head_key = jax.random.split(key, 4)
        self.gamma, kernel_gamma = variant.gammas
        self.stem = _build_stem(variant, in_channels, key=stem_key)
        self.stages = _build_stages(variant, key=stages_key)
        features = variant.final_channels or variant.channels[-1]
        self.final_conv = None if variant.final_channels is None else WSConv2d(
            variant.channels[-1], features, 1, padding=variant.padding,
            standardization=variant.standardization, gamma=kernel_gamma, key=final_key,
        )  # fmt: skip
        initializer = jax.nn.initializers.normal(variant.head_std)
        self.head = Linear(features, num_classes, initializer=initializer, key=head_key)
        self.family = variant.family
        self.stem_pool = variant.stem_pool
        self.padding = variant.padding
        self.activation = variant.activation_function
        self.drop_rate = variant.drop_rate

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Channels and stride of the feature maps: the stem's, each stage's, the last."""
        stem_stride = math.prod(conv.stride for conv in self.stem) * (2 if self.stem_pool else 1)
        return describe_features(
            (self.stem[-1].weight.shape[-1], stem_stride),
            [
                (stage.blocks[0].conv2.weight.shape[-1], stage.blocks[0].stride)
                for stage in self.stages
            ],
            self.head.weight.shape[0],
        )

    def __call__(
        self, image: Shaped[Array, "..."], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " classes"]:
        """Computes the logits of one image of shape `(height, width, channels)`.

        Args:
            image: Normalised pixels, floating point, of any size. The computation is done in
                its dtype.
            key: Randomness of stochastic depth and dropout; without one, neither happens.

        Raises:
            ValueError: If `image` is not one floating-point image with the right channels.
        """
        return self.features(image, key=key).logits

    def features(self, image: Shaped[Array, "..."], *, key: PRNGKeyArray | None = None) -> Features:
        """As calling the model, with the feature maps on the way: see `feature_info`.

        For other activations on the way, see `nfx.graph.taps`.
        """
        check_image(image, self.stem[0].weight.shape[2])
        keys = split_or_none(key, sum(len(stage.blocks) for stage in self.stages) + 1)
        activation = Activation(ACTIVATIONS[self.activation].function, self.gamma)

        stem = self.stem[0](image)
        for conv in self.stem[1:]:
            stem = conv(activation(stem))
        x = stem = max_pool(stem, 3, 2, padding=self.padding) if self.stem_pool else stem
        maps = []
        for stage in self.stages:
            for block in stage.blocks:
                x = block(x, key=next(keys))
            maps.append(x)
        final = activation(x if self.final_conv is None else self.final_conv(x))
        pooled = jnp.mean(final, axis=(0, 1))
        logits = self.head(dropout(pooled, self.drop_rate, key=next(keys)))
        return Features(stem, tuple(maps), final, pooled, logits)


def _attend(attention: Attention | None, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    return x if attention is None else 2 * attention(x) * x


def _build_attention(
    variant: NFNetVariant, channels: int, *, key: PRNGKeyArray
) -> Attention | None:
    if variant.efficient_channel_attention:
        return EfficientChannelAttention(channels, key=key)
    if variant.squeeze_excite_ratio is None:
        return None
    normal = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    return SqueezeExcite(
        channels,
        variant.squeeze_excite_ratio,
        multiple=variant.channel_multiple,
        initializer=normal if variant.attention_init == "timm" else None,
        key=key,
    )


def _build_stem(
    variant: NFNetVariant, in_channels: int, *, key: PRNGKeyArray
) -> tuple[WSConv2d, ...]:
    channels = (in_channels, *variant.stem_channels)
    keys = jax.random.split(key, len(variant.stem_strides))
    _, gamma = variant.gammas
    return tuple(
        WSConv2d(
            inputs, outputs, variant.stem_kernel, stride=stride, padding=variant.padding,
            standardization=variant.standardization, gamma=gamma, key=k,
        )
        for inputs, outputs, stride, k in zip(
            channels[:-1], channels[1:], variant.stem_strides, keys, strict=True
        )
    )  # fmt: skip


def _build_stages(variant: NFNetVariant, *, key: PRNGKeyArray) -> tuple[Stage, ...]:
    betas = block_betas(variant.depths, variant.alpha)
    drop_rates = block_drop_rates(
        variant.depths,
        variant.stochastic_depth_rate,
        reaches_rate=variant.stochastic_depth == "timm",
    )
    keys = iter(jax.random.split(key, sum(variant.depths)))
    stages, in_channels = [], variant.stem_channels[-1]
    for stage, out_channels in enumerate(variant.channels):
        blocks = []
        for index in range(variant.depths[stage]):
            first = variant.first_expansion is not None and stage == index == 0
            block = NFBlock(
                replace(variant, expansion=variant.first_expansion) if first else variant,
                in_channels,
                out_channels,
                stride=variant.strides[stage] if index == 0 else 1,
                beta=betas[stage][index],
                drop_rate=drop_rates[stage][index],
                key=next(keys),
            )
            blocks.append(block)
            in_channels = out_channels
        stages.append(Stage(tuple(blocks)))
    return tuple(stages)
