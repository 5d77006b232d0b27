"""The residual block of normalizer-free networks."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nfx.models._variant import NFNetVariant
from nfx.nn import (
    Activation,
    ACTIVATIONS,
    average_pool,
    Conv2d,
    EfficientChannelAttention,
    SqueezeExcite,
    StochasticDepth,
    WSConv2d,
)


Attention = SqueezeExcite | EfficientChannelAttention

# As it is trained, or folded: see `nfx.graph.fold_weight_standardization`.
Convolution = WSConv2d | Conv2d


class NFBlock(eqx.Module):
    """A bottleneck of weight-standardized convolutions around which the signal grows.

    `y = shortcut + alpha * skip_gain * drop(branch(beta * activation(x)))`, where the shortcut
    projects the activated input, or is `x` itself. An attention multiplies the branch by twice
    its gate: at its end, or in an NF-RegNet before the last convolution.

    What a variant does not have is None: there are no switches.
    """

    unit_axes: ClassVar = {"skip_gain": "->"}

    conv0: Convolution
    conv1: Convolution
    conv1b: Convolution | None
    inner_attention: Attention | None
    conv2: Convolution
    attention: Attention | None
    conv_shortcut: Convolution | None
    stochastic_depth: StochasticDepth
    skip_gain: Float[Array, ""] | None
    stride: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    gamma: float = eqx.field(static=True)
    gate_scale: float = eqx.field(static=True)
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
        stochastic_depth_rate: float = 0.0,
        key: PRNGKeyArray,
    ):
        """Builds one block of `variant`; as it starts, it is its shortcut.

        Args:
            variant: What all blocks of a network share.
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            stride: Stride of the first 3x3 convolution and of the shortcut.
            beta: One over the expected standard deviation of the input.
            stochastic_depth_rate: Probability that the branch is dropped.
            key: Randomness for the kernels.

        Raises:
            ValueError: If the width of the 3x3 convolutions is less than one group.
        """
        width, groups = variant.block_width(in_channels, out_channels)
        keys = iter(jax.random.split(key, 6))

        def conv(inputs: int, outputs: int, kernel_size: int, **how: int) -> WSConv2d:
            return build_ws_conv(variant, inputs, outputs, kernel_size, key=next(keys), **how)

        self.conv0 = conv(in_channels, width, 1)
        self.conv1 = conv(width, width, 3, stride=stride, groups=groups)
        self.conv1b = conv(width, width, 3, groups=groups) if variant.two_convs else None
        self.conv2 = conv(width, out_channels, 1)
        if variant.skip_gain is None:
            self.conv2 = eqx.tree_at(lambda c: c.gain, self.conv2, jnp.zeros(out_channels))
        projects = stride > 1 or in_channels != out_channels
        own_stride = stride if variant.strided_shortcut else 1
        self.conv_shortcut = (
            conv(in_channels, out_channels, 1, stride=own_stride) if projects else None
        )
        inner = variant.attention_after == "conv1"
        attention = _build_attention(variant, width if inner else out_channels, key=next(keys))
        self.inner_attention, self.attention = (attention, None) if inner else (None, attention)
        scales = variant.stochastic_depth_rule == "timm"
        self.stochastic_depth = StochasticDepth(stochastic_depth_rate, scale_by_keep=scales)
        self.skip_gain = (
            None if variant.skip_gain is None else jnp.asarray(variant.skip_gain, jnp.float32)
        )
        self.stride = stride
        self.activation = variant.activation_function
        self.gamma, _ = variant.gammas
        self.gate_scale = 2.0
        self.alpha = variant.alpha
        self.beta = beta

    @property
    def constants(self) -> dict[str, float]:
        """What the blocks of a stage differ in and is no parameter: see `nfx.nn.Stack`."""
        return {"beta": self.beta, "keep": 1 - self.stochastic_depth.rate}

    @jax.named_scope("nfx.models.NFBlock")
    def __call__(
        self,
        x: Float[Array, "h w i"],
        *,
        key: PRNGKeyArray | None = None,
        beta: Float[Array, ""] | None = None,
        keep: Float[Array, ""] | None = None,
    ) -> Float[Array, "h2 w2 o"]:
        """Computes the output for one image.

        Args:
            x: The image.
            key: Randomness of stochastic depth; without one, the branch is kept.
            beta: In the place of the block's own, where that is data: see `nfx.nn.Stack`.
            keep: In the place of one minus the rate of stochastic depth, likewise.
        """
        activation = Activation(ACTIVATIONS[self.activation].function, self.gamma)
        activated = activation(x) * (self.beta if beta is None else beta.astype(x.dtype))
        branch = self.conv1(activation(self.conv0(activated)))
        if self.conv1b is not None:
            branch = self.conv1b(activation(branch))
        branch = self._attend(self.inner_attention, branch)
        branch = self._attend(self.attention, self.conv2(activation(branch)))
        branch = self.stochastic_depth(branch, key=key, keep=keep)
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

    def _attend(
        self, attention: Attention | None, x: Float[Array, "h w c"]
    ) -> Float[Array, "h w c"]:
        return x if attention is None else self.gate_scale * attention(x) * x


def build_ws_conv(
    variant: NFNetVariant,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    key: PRNGKeyArray,
) -> WSConv2d:
    """Builds a convolution by the conventions of a variant."""
    _, gamma = variant.gammas
    return WSConv2d(
        in_channels, out_channels, kernel_size, stride=stride, groups=groups, gamma=gamma,
        padding=variant.padding, standardization=variant.standardization, key=key,
    )  # fmt: skip


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
