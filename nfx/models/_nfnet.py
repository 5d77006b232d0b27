"""NFNet: the normalizer-free network of Brock et al. (2021), arXiv:2102.06171."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from nfx.models._variants import NFNetVariant
from nfx.nn import (
    ACTIVATIONS,
    average_pool,
    block_betas,
    block_drop_rates,
    dropout,
    Linear,
    SqueezeExcite,
    StochasticDepth,
    WSConv2d,
)


class Trace(NamedTuple):
    """Everything a forward pass computes on its way to the logits.

    Attributes:
        stem: Output of the stem.
        blocks: Output of each block, in order.
        residuals: Each block's residual branch after squeeze-excite, before it is dropped
            and scaled.
        pooled: Features before dropout and the classifier.
        logits: Scores of the classes.
    """

    stem: Float[Array, "h w c"]
    blocks: tuple[Float[Array, "_ _ _"], ...]
    residuals: tuple[Float[Array, "_ _ _"], ...]
    pooled: Float[Array, " features"]
    logits: Float[Array, " classes"]


class NFBlock(eqx.Module):
    """A bottleneck of weight-standardized convolutions around which the signal grows.

    `y = shortcut + alpha * skip_gain * drop(2 * gate * branch(beta * activation(x)))`, where
    the shortcut projects the activated input, or is `x` itself.
    """

    unit_axes: ClassVar = {"skip_gain": ()}

    conv0: WSConv2d
    conv1: WSConv2d
    conv1b: WSConv2d | None
    conv2: WSConv2d
    conv_shortcut: WSConv2d | None
    squeeze_excite: SqueezeExcite | None
    stochastic_depth: StochasticDepth
    skip_gain: Float[Array, ""]
    stride: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    alpha: float = eqx.field(static=True)
    beta: float = eqx.field(static=True)

    def __init__(
        self,
        variant: NFNetVariant,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        beta: float,
        drop_rate: float,
        key: PRNGKeyArray,
    ):
        """Builds one block of `variant`; while its `skip_gain` is zero it is its shortcut.

        Args:
            variant: What all blocks of a network share.
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            stride: Stride of the first 3x3 convolution and of the shortcut's pooling.
            beta: One over the expected standard deviation of the input.
            drop_rate: Probability of stochastic depth.
            key: Randomness for the kernels.

        Raises:
            ValueError: If the width of the 3x3 convolutions is less than one group.
        """
        base = out_channels if variant.big_width else in_channels
        groups = int(base * variant.expansion) // variant.group_width
        if groups == 0:
            raise ValueError(
                f"A block with {base} channels and expansion={variant.expansion} has 3x3 "
                f"convolutions {int(base * variant.expansion)} wide, less than one group of "
                f"group_width={variant.group_width}: widen it or narrow its groups."
            )
        width = groups * variant.group_width
        keys = iter(jax.random.split(key, 6))

        def conv(
            inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
        ) -> WSConv2d:
            rule = variant.standardization
            return WSConv2d(
                inputs, outputs, size, stride=stride, groups=groups, standardization=rule,
                key=next(keys),
            )  # fmt: skip

        self.conv0 = conv(in_channels, width, 1)
        self.conv1 = conv(width, width, 3, stride=stride, groups=groups)
        self.conv1b = conv(width, width, 3, groups=groups) if variant.two_convs else None
        self.conv2 = conv(width, out_channels, 1)
        projects = stride > 1 or in_channels != out_channels
        self.conv_shortcut = conv(in_channels, out_channels, 1) if projects else None
        ratio = variant.squeeze_excite_ratio
        self.squeeze_excite = (
            None if ratio is None else SqueezeExcite(out_channels, ratio, key=next(keys))
        )
        self.stochastic_depth = StochasticDepth(drop_rate)
        self.skip_gain = jnp.full((), variant.skip_gain)
        self.stride = stride
        self.activation = variant.activation
        self.alpha = variant.alpha
        self.beta = beta

    @jax.named_scope("nfx.models.NFBlock")
    def __call__(
        self, x: Float[Array, "h w i"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "h2 w2 o"], Float[Array, "h2 w2 o"]]:
        """Returns the output and the residual branch, the latter neither dropped nor scaled."""
        activation = ACTIVATIONS[self.activation]
        activated = activation(x) * self.beta
        residual = self.conv1(activation(self.conv0(activated)))
        if self.conv1b is not None:
            residual = self.conv1b(activation(residual))
        residual = self.conv2(activation(residual))
        if self.squeeze_excite is not None:
            residual = 2 * self.squeeze_excite(residual) * residual
        branch = self.stochastic_depth(residual, key=key) * self.skip_gain.astype(x.dtype)
        return branch * self.alpha + self._shortcut(x, activated), residual

    def _shortcut(
        self, x: Float[Array, "h w i"], activated: Float[Array, "h w i"]
    ) -> Float[Array, "h2 w2 o"]:
        if self.conv_shortcut is None:
            return x
        pooled = average_pool(activated, 2, 2) if self.stride > 1 else activated
        return self.conv_shortcut(pooled)


class Stage(eqx.Module):
    """Blocks at one resolution; the first may halve it."""

    blocks: tuple[NFBlock, ...]


class NFNet(eqx.Module):
    """A normalizer-free network, for one image.

    Differences from the paper: none in the function; parameters are in one tree whose every
    kernel has its outputs last, and the width of a block's 3x3 convolutions counts whole
    groups, as in the official code (128 and not 192 in the first stage of the F+ variants).
    """

    stem: tuple[WSConv2d, ...]
    stages: tuple[Stage, ...]
    final_conv: WSConv2d
    head: Linear
    activation: str = eqx.field(static=True)
    drop_rate: float = eqx.field(static=True)

    def __init__(
        self, variant: NFNetVariant, *, num_classes: int, in_channels: int, key: PRNGKeyArray
    ):
        """Builds the network of a variant.

        Args:
            variant: The row to build: see `nfx.models.NFNetVariant`.
            num_classes: Length of the logits.
            in_channels: Channels of the images.
            key: Randomness for all parameters.

        Raises:
            ValueError: If the activation is unknown or changes the number of channels, or a
                block is narrower than one group.
        """
        if variant.activation not in ACTIVATIONS or variant.activation == "glu":
            raise ValueError(
                f"activation={variant.activation!r} is not one an NFNet can use: "
                f"{', '.join(sorted(set(ACTIVATIONS) - {'glu'}))}."
            )
        stem_key, stages_key, final_key, head_key = jax.random.split(key, 4)
        features = variant.widths[-1] * variant.final_expansion
        rule = variant.standardization
        self.stem = _build_stem(variant, in_channels, key=stem_key)
        self.stages = _build_stages(variant, key=stages_key)
        self.final_conv = WSConv2d(
            variant.widths[-1], features, 1, standardization=rule, key=final_key
        )
        initializer = jax.nn.initializers.normal(0.01)
        self.head = Linear(features, num_classes, initializer=initializer, key=head_key)
        self.activation = variant.activation
        self.drop_rate = variant.drop_rate

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
        return self.trace(image, key=key).logits

    def trace(self, image: Shaped[Array, "..."], *, key: PRNGKeyArray | None = None) -> Trace:
        """As calling the model, with everything computed on the way."""
        _check_image(image, self.stem[0].weight.shape[2])
        activation = ACTIVATIONS[self.activation]
        blocks = [block for stage in self.stages for block in stage.blocks]
        keys = [None] * (len(blocks) + 1) if key is None else jax.random.split(key, len(blocks) + 1)

        stem = self.stem[0](image)
        for conv in self.stem[1:]:
            stem = conv(activation(stem))
        x, outputs, residuals = stem, [], []
        for block, block_key in zip(blocks, keys[:-1], strict=True):
            x, residual = block(x, key=block_key)
            outputs.append(x)
            residuals.append(residual)
        pooled = jnp.mean(activation(self.final_conv(x)), axis=(0, 1))
        logits = self.head(dropout(pooled, self.drop_rate, key=keys[-1]))
        return Trace(stem, tuple(outputs), tuple(residuals), pooled, logits)


def _build_stem(
    variant: NFNetVariant, in_channels: int, *, key: PRNGKeyArray
) -> tuple[WSConv2d, ...]:
    channels = (in_channels, *variant.stem_channels)
    keys = jax.random.split(key, len(variant.stem_strides))
    return tuple(
        WSConv2d(inputs, outputs, 3, stride=stride, standardization=variant.standardization, key=k)
        for inputs, outputs, stride, k in zip(
            channels[:-1], channels[1:], variant.stem_strides, keys, strict=True
        )
    )


def _build_stages(variant: NFNetVariant, *, key: PRNGKeyArray) -> tuple[Stage, ...]:
    betas = block_betas(variant.depths, variant.alpha)
    drop_rates = block_drop_rates(variant.depths, variant.stochastic_depth_rate)
    keys = iter(jax.random.split(key, sum(variant.depths)))
    stages, in_channels = [], variant.stem_channels[-1]
    for stage, width in enumerate(variant.widths):
        blocks = []
        for index in range(variant.depths[stage]):
            block = NFBlock(
                variant,
                in_channels,
                width,
                stride=variant.strides[stage] if index == 0 else 1,
                beta=betas[stage][index],
                drop_rate=drop_rates[stage][index],
                key=next(keys),
            )
            blocks.append(block)
            in_channels = width
        stages.append(Stage(tuple(blocks)))
    return tuple(stages)


def _check_image(image: Array, channels: int) -> None:
    expected = f"one floating-point image of shape (height, width, {channels})"
    if image.ndim != 3:
        hint = " For a batch: jax.vmap(model)(images)." if image.ndim == 4 else ""
        raise ValueError(f"The model takes {expected}; got shape {image.shape}.{hint}")
    if image.shape[-1] != channels:
        raise ValueError(
            f"The model takes {expected}; got shape {image.shape}. Channels come last; for "
            f"{image.shape[-1]} of them: create_model(..., in_channels={image.shape[-1]})."
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"The model takes {expected}; got dtype {image.dtype}. Convert and normalise first: "
            "nfx.augment.normalize(image, mean, std)."
        )
