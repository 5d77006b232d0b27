"""Convolution with scaled weight standardization."""

import math
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nfx.nn._convolution import convolve
from nfx.nn._standardize import Standardization, STANDARDIZATIONS


Padding = Literal["SAME", "symmetric"]


class WSConv2d(eqx.Module):
    """2D convolution whose kernel is standardized on every call.

    There is no standardized copy to keep in step: `weight` is the only kernel state. Under
    `jax.vmap` the standardization is traced once, not once an example.
    """

    unit_axes: ClassVar = {"weight": (-1,), "gain": (), "bias": ()}

    weight: Float[Array, "kh kw i_per_group o"]
    gain: Float[Array, " o"]
    bias: Float[Array, " o"]
    stride: int = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    standardization: Standardization = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        standardization: Standardization = "official",
        padding: Padding = "SAME",
        key: PRNGKeyArray,
    ):
        """Draws the kernel from N(0, 1 / fan_in); `gain` is ones and `bias` zeros.

        Args:
            in_channels: Channels of the input image.
            out_channels: Channels of the output image.
            kernel_size: Side of the square kernel, in pixels.
            stride: Step between output pixels, in input pixels.
            groups: Number of channel groups; must divide both channel counts.
            standardization: `"official"` floors the variance, `"timm"` adds to it: see
                `standardize_weight` and `standardize_weight_timm`.
            padding: `"SAME"` as TensorFlow has it, the odd pixel after the image, or
                `"symmetric"` as PyTorch has it. At stride 2 and even sizes they sample
                different pixels.
            key: Randomness for the kernel.

        Raises:
            ValueError: If `groups` does not divide both channel counts, or a convention
                has no such name.
        """
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}."
            )
        if standardization not in STANDARDIZATIONS or padding not in ("SAME", "symmetric"):
            raise ValueError(
                f"standardization={standardization!r} must be one of "
                f"{sorted(STANDARDIZATIONS)}, padding={padding!r} 'SAME' or 'symmetric'."
            )
        shape = (kernel_size, kernel_size, in_channels // groups, out_channels)
        self.weight = jax.random.normal(key, shape) / math.sqrt(math.prod(shape[:-1]))
        self.gain = jnp.ones(out_channels)
        self.bias = jnp.zeros(out_channels)
        self.stride = stride
        self.groups = groups
        self.standardization = standardization
        self.padding = padding

    @jax.named_scope("nfx.nn.WSConv2d")
    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "h_out w_out o"]:
        """Convolves one image, in the dtype of `x`; statistics are in that of `weight`."""
        kernel = STANDARDIZATIONS[self.standardization](self.weight, self.gain)
        size = self.weight.shape[0]
        margin = ((size - 1) // 2, (size - 1) // 2)
        y = convolve(
            x,
            kernel.astype(x.dtype),
            stride=self.stride,
            padding="SAME" if self.padding == "SAME" else (margin, margin),
            groups=self.groups,
        )
        return y + self.bias.astype(x.dtype)
