"""Normalizer-free networks: stem, stages of blocks, classifier."""

import math
from collections.abc import Sequence
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, Shaped

from nfx.models._features import check_images, describe_features, FeatureInfo, Features
from nfx.models._nf_block import build_ws_conv, Convolution, NFBlock
from nfx.models._variant import Family, NFNetVariant
from nfx.nn import (
    Activation,
    ACTIVATIONS,
    block_betas,
    block_stochastic_depth_rates,
    dropout,
    Linear,
    max_pool,
    Padding,
    Stack,
    WSConv2d,
)


class Stage(eqx.Module):
    """Blocks at one resolution; the first may halve it. Alike ones may be in a `Stack`."""

    blocks: tuple[NFBlock | Stack, ...]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(blocks.depth if isinstance(blocks, Stack) else 1 for blocks in self.blocks)

    @property
    def unstacked(self) -> tuple[NFBlock, ...]:
        """The blocks on their own."""
        return tuple(
            block
            for blocks in self.blocks
            for block in (blocks.blocks if isinstance(blocks, Stack) else (blocks,))
        )

    def __call__(
        self, x: Float[Array, "h w i"], *, keys: Key[Array, " depth"] | None = None
    ) -> Float[Array, "h2 w2 o"]:
        """Computes the output for one image, with a key for each block."""
        start = 0
        for blocks in self.blocks:
            if isinstance(blocks, Stack):
                end = start + blocks.depth
                x = blocks(x, keys=None if keys is None else keys[start:end])
            else:
                end = start + 1
                x = blocks(x, key=None if keys is None else keys[start])
            start = end
        return x


class NFNet(eqx.Module):
    """A normalizer-free network, for one image: NFNet, NF-ResNet or NF-RegNet.

    Its variant decides which: see `nfx.models.NFNetVariant`, and `nfx.models.CONVENTIONS` for
    what the implementations in use do differently.

    Differences from the papers: none in the function; parameters are in one tree whose every
    kernel has its outputs last, and the width of a block's 3x3 convolutions counts whole
    groups, as in the official code (128 and not 192 in the first stage of the F+ variants).
    """

    stem: tuple[Convolution, ...]
    stages: tuple[Stage, ...]
    final_conv: Convolution | None
    head: Linear
    family: Family = eqx.field(static=True)
    stem_pool: bool = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    gamma: float = eqx.field(static=True)
    stem_gamma: float = eqx.field(static=True)
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
        self.gamma, _ = variant.gammas
        self.stem = _build_stem(variant, in_channels, key=stem_key)
        self.stages = _build_stages(variant, key=stages_key)
        features = variant.final_channels or variant.channels[-1]
        self.final_conv = (
            None
            if variant.final_channels is None
            else build_ws_conv(variant, variant.channels[-1], features, 1, key=final_key)
        )
        initializer = jax.nn.initializers.normal(variant.head_std)
        self.head = Linear(features, num_classes, initializer=initializer, key=head_key)
        self.family = variant.family
        self.stem_pool = variant.stem_pool
        self.padding = variant.padding
        self.activation = variant.activation_function
        self.stem_gamma = self.gamma
        self.drop_rate = variant.drop_rate

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.stem[0].weight.shape[2]

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self.head.bias.shape[0]

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Channels and stride of the feature maps: the stem's, each stage's, the last."""
        stem_stride = math.prod(conv.stride for conv in self.stem) * (2 if self.stem_pool else 1)
        firsts = [stage.blocks[0] for stage in self.stages]
        blocks = [first.block if isinstance(first, Stack) else first for first in firsts]
        return describe_features(
            (self.stem[-1].weight.shape[-1], stem_stride),
            [(block.conv2.weight.shape[-1], block.stride) for block in blocks],
            self.head.weight.shape[0],
        )

    def __call__(
        self, image: Shaped[Array, "..."], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " classes"]:
        """Computes the logits of one image of shape `(height, width, channels)`.

        Args:
            image: Normalized pixels, floating point, of any size. The computation is done in
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
        check_images(image, self.in_channels, batched=False)
        depths = [stage.depth for stage in self.stages]
        *keys, dropout_keys = _split_or_none(key, [*depths, 1])
        function = ACTIVATIONS[self.activation].function

        stem = self.stem[0](image)
        for conv in self.stem[1:]:
            stem = conv(Activation(function, self.stem_gamma)(stem))
        x = stem = max_pool(stem, 3, 2, padding=self.padding) if self.stem_pool else stem
        maps = []
        for stage, stage_keys in zip(self.stages, keys, strict=True):
            x = stage(x, keys=stage_keys)
            maps.append(x)
        final = Activation(function, self.gamma)(
            x if self.final_conv is None else self.final_conv(x)
        )
        pooled = jnp.mean(final, axis=(0, 1))
        dropout_key = None if dropout_keys is None else dropout_keys[0]
        logits = self.head(dropout(pooled, self.drop_rate, key=dropout_key))
        return Features(stem, tuple(maps), final, pooled, logits)


def _split_or_none(
    key: PRNGKeyArray | None, counts: Sequence[int]
) -> list[Key[Array, " _"] | None]:
    """As many keys as are asked for in each place, or None where there is no key."""
    if key is None:
        return [None] * len(counts)
    keys = jax.random.split(key, sum(counts))
    return [keys[sum(counts[:i]) : sum(counts[: i + 1])] for i in range(len(counts))]


def _build_stem(
    variant: NFNetVariant, in_channels: int, *, key: PRNGKeyArray
) -> tuple[WSConv2d, ...]:
    channels = (in_channels, *variant.stem_channels)
    keys = jax.random.split(key, len(variant.stem_strides))
    return tuple(
        build_ws_conv(variant, inputs, outputs, variant.stem_kernel, stride=stride, key=key)
        for inputs, outputs, stride, key in zip(
            channels[:-1], channels[1:], variant.stem_strides, keys, strict=True
        )
    )


def _build_stages(variant: NFNetVariant, *, key: PRNGKeyArray) -> tuple[Stage, ...]:
    betas = block_betas(variant.depths, variant.alpha)
    rates = block_stochastic_depth_rates(
        variant.depths,
        variant.stochastic_depth_rate,
        reaches_rate=variant.stochastic_depth_rule == "timm",
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
                stochastic_depth_rate=rates[stage][index],
                key=next(keys),
            )
            blocks.append(block)
            in_channels = out_channels
        stages.append(Stage(tuple(blocks)))
    return tuple(stages)
