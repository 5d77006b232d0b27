"""Another number of input channels for the same network."""

from typing import TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from nfx.nn import Conv2d, STANDARDIZATIONS, WSConv2d


Model = TypeVar("Model", bound=PyTree)


def adapt_input_channels(model: Model, in_channels: int) -> Model:
    """Returns `model` for images with another number of channels than the three of RGB.

    One channel: the first kernel is summed over its channels, so that a gray image gives what
    the same image in RGB gave. Any other number: the kernel is repeated over the channels, in
    order, and multiplied by `3 / in_channels`, for the response to an image whose channels are
    all equal to stay what it was. These are timm's rules.

    Weight standardization would undo the scale, so the gain of each output is set to keep it.
    For one channel, and for multiples of three, the standardized kernel then follows the rule
    exactly; for others its mean over the new channels is removed, and responses change.

    Args:
        model: A model of `create_model` with three channels.
        in_channels: How many there are to be.

    Raises:
        ValueError: If the model does not have three channels, or `in_channels` is not positive.

    References:
        timm 1.0, `adapt_input_conv`.
    """
    if in_channels < 1:
        raise ValueError(f"in_channels={in_channels} must be positive.")
    if model.in_channels != 3:
        raise ValueError(
            f"The model takes images of {model.in_channels} channels, and only models for the "
            "three of RGB can be adapted: start from create_model(..., in_channels=3) or its "
            "weights."
        )
    return eqx.tree_at(_first_conv, model, _adapt(_first_conv(model), in_channels))


def _first_conv(model: PyTree) -> WSConv2d | Conv2d:
    first = model.stem[0]
    return getattr(first, "conv", first)


def _adapt(conv: WSConv2d | Conv2d, in_channels: int) -> WSConv2d | Conv2d:
    weight = _adapt_kernel(conv.weight, in_channels)
    adapted = eqx.tree_at(lambda c: c.weight, conv, weight)
    if not isinstance(conv, WSConv2d):
        return adapted
    standardize = STANDARDIZATIONS[conv.standardization]
    # What the standardization divides each output by: the same kernel, before over after.
    before = _spread(conv.weight) / _spread(standardize(conv.weight, jnp.ones_like(conv.gain)))
    after = _spread(weight) / _spread(standardize(weight, jnp.ones_like(conv.gain)))
    gain = conv.gain * jnp.where((before > 0) & (after > 0), after / before, 1)
    return eqx.tree_at(lambda c: c.gain, adapted, gain)


def _adapt_kernel(
    kernel: Float[Array, "kh kw 3 o"], in_channels: int
) -> Float[Array, "kh kw {in_channels} o"]:
    if in_channels == 1:
        return jnp.sum(kernel, axis=2, keepdims=True)
    repeats = -(-in_channels // 3)
    return jnp.tile(kernel, (1, 1, repeats, 1))[:, :, :in_channels] * (3 / in_channels)


def _spread(kernel: Float[Array, "kh kw i o"]) -> Float[Array, " o"]:
    return jnp.std(kernel, axis=(0, 1, 2))
