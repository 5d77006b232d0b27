"""The residual block of batch-normalized networks."""

import math
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from nfx.models._batch_norm_variant import BatchNormVariant
from nfx.nn import (
    ACTIVATIONS,
    average_pool,
    BatchNorm,
    BatchStatistics,
    Conv2d,
    draw_kernel,
    Padding,
    SqueezeExcite,
    StochasticDepth,
)


BatchAxes = tuple[str, ...] | None


class ConvNorm(eqx.Module):
    """A convolution and its normalization."""

    conv: Conv2d
    norm: BatchNorm

    def __call__(
        self, x: Float[Array, "n h w i"], statistics: BatchStatistics, batch_axes: BatchAxes
    ) -> tuple[Float[Array, "n h2 w2 o"], BatchStatistics]:
        """Computes the output and the next running averages: see `BatchNorm`."""
        return self.norm(jax.vmap(self.conv)(x), statistics, batch_axes=batch_axes)


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
        stochastic_depth_rate: float,
        key: PRNGKeyArray,
    ):
        """Builds one block of `variant`; as it starts, it is its shortcut.

        Args:
            variant: What all blocks of a network share.
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            groups: Groups of the 3x3 convolution.
            stride: Stride of that convolution and of the shortcut.
            stochastic_depth_rate: Probability that the branch is dropped.
            key: Randomness for the kernels.
        """
        width = int(out_channels * variant.expansion)
        keys = jax.random.split(key, 5)
        conv = partial(build_conv, padding=variant.padding)
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
        self.stochastic_depth = StochasticDepth(stochastic_depth_rate, scale_by_keep=True)
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
        batch_axes: BatchAxes = None,
        keys: Key[Array, " n"] | None = None,
    ) -> tuple[Float[Array, "n h2 w2 o"], BlockStatistics]:
        """Computes the output for a batch, and the next running averages."""
        activation = ACTIVATIONS[self.activation].function
        branch, conv0 = self.conv0(x, statistics.conv0, batch_axes)
        branch, conv1 = self.conv1(activation(branch), statistics.conv1, batch_axes)
        branch, conv2 = self.conv2(activation(branch), statistics.conv2, batch_axes)
        if self.attention is not None:
            branch = jax.vmap(self.attention)(branch)[:, None, None] * branch
        branch = jax.vmap(lambda x, key: self.stochastic_depth(x, key=key))(branch, keys)
        conv_shortcut = statistics.conv_shortcut
        if self.conv_shortcut is not None and conv_shortcut is not None:
            pools = self.stride > self.conv_shortcut.conv.stride
            pooled = jax.vmap(lambda image: average_pool(image, 2, 2))(x) if pools else x
            x, conv_shortcut = self.conv_shortcut(pooled, conv_shortcut, batch_axes)
        return activation(x + branch), BlockStatistics(conv0, conv1, conv2, conv_shortcut)


def build_conv(
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
    """Builds a convolution and its normalization.

    Its kernel is drawn from N(0, 2 / fan_in), as is usual before a relu.

    References:
        He et al. (2015), arXiv:1502.01852.
    """
    kernel = draw_kernel(in_channels, out_channels, kernel_size, groups, key) * math.sqrt(2)
    conv = Conv2d(kernel, stride=stride, groups=groups, padding=padding)
    return ConvNorm(conv, BatchNorm(out_channels, gain=gain))
