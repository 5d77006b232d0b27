"""Convolutions: plain, and with scaled weight standardization."""

import functools as ft
import math
import numbers
from typing import Any, ClassVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nfx._names import check_choice
from nfx.nn._convolve import convolve, Padding
from nfx.nn._standardize import Standardization, STANDARDIZATIONS


class WSConv2d(eqx.Module):
    """2D convolution whose kernel is standardized on every call.

    There is no standardized copy to keep in step: `weight` is the only kernel state. Under
    `jax.vmap` the standardization is traced once, not once an example.

    Attributes:
        weight: The kernel, before it is standardized.
        gain: What each output of the standardized kernel is multiplied by.
        bias: Added to the output.
        stride: Step between output pixels, in input pixels.
        groups: Number of channel groups.
        standardization: By which rule: see `STANDARDIZATIONS`.
        padding: `"SAME"` or `"symmetric"`: see `window_padding`.
        gamma: Constant that the standardized kernel is multiplied by.
        axis_name: The axis of the mesh over which the input's channels are split, or None: see
            `nfx.graph.split_channels`.
    """

    unit_axes: ClassVar = {"weight": "h w i o -> o", "gain": "o ->", "bias": "o ->"}

    weight: Float[Array, "kh kw i_per_group o"]
    gain: Float[Array, " o"]
    bias: Float[Array, " o"]
    stride: int = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    standardization: Standardization = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    gamma: float = eqx.field(static=True)
    axis_name: str | None = eqx.field(static=True)

    def __init__(  # noqa: PLR0913
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        standardization: Standardization = "official",
        padding: Padding = "SAME",
        gamma: float = 1.0,
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
            padding: `"SAME"` or `"symmetric"`: see `window_padding`.
            gamma: Constant that the standardized kernel is multiplied by: that of the
                activation before it, where the activation does not carry its own.
            key: Randomness for the kernel.

        Raises:
            ValueError: If the size is no whole number of pixels, `groups` does not divide both
                channel counts, or a convention has no such name.
        """
        check_choice("standardization", standardization, STANDARDIZATIONS)
        check_choice("padding", padding, get_args(Padding))
        self.weight = draw_kernel(in_channels, out_channels, kernel_size, groups, key)
        self.gain = jnp.ones(out_channels)
        self.bias = jnp.zeros(out_channels)
        self.stride = stride
        self.groups = groups
        self.standardization = standardization
        self.padding = padding
        self.gamma = gamma
        self.axis_name = None

    @property
    def kernel(self) -> Float[Array, "kh kw i_per_group o"]:
        """The standardized kernel, with gain and gamma."""
        return _standardized(
            self.weight, self.gain, self.standardization, self.gamma, self.axis_name
        )

    @jax.named_scope("nfx.nn.WSConv2d")
    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "h_out w_out o"]:
        """Convolves one image, in the dtype of `x`; statistics are in that of `weight`."""
        return _standardized_convolution(
            x, self.weight, self.gain, self.bias, standardization=self.standardization,
            gamma=self.gamma, axis_name=self.axis_name, stride=self.stride, padding=self.padding,
            groups=self.groups,
        )  # fmt: skip


class Conv2d(eqx.Module):
    """2D convolution with the kernel as it is.

    Attributes:
        weight: The kernel; `draw_kernel` draws one.
        bias: Added to the output, or None where a normalization follows.
        stride: Step between output pixels, in input pixels.
        groups: Number of channel groups.
        padding: `"SAME"` or `"symmetric"`: see `window_padding`.
    """

    unit_axes: ClassVar = {"weight": "h w i o -> o", "bias": "o ->"}

    weight: Float[Array, "kh kw i_per_group o"]
    bias: Float[Array, " o"] | None = None
    stride: int = eqx.field(static=True, default=1, kw_only=True)
    groups: int = eqx.field(static=True, default=1, kw_only=True)
    padding: Padding = eqx.field(static=True, default="SAME", kw_only=True)

    @jax.named_scope("nfx.nn.Conv2d")
    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "h_out w_out o"]:
        """Convolves one image, in its dtype."""
        kernel = self.weight.astype(x.dtype)
        y = convolve(x, kernel, stride=self.stride, padding=self.padding, groups=self.groups)
        return y if self.bias is None else y + self.bias.astype(x.dtype)


# Jitted for its tracing cache: blocks repeat, and what repeats is traced and lowered once.
@ft.partial(
    jax.jit,
    static_argnames=("standardization", "gamma", "axis_name", "stride", "padding", "groups"),
)
def _standardized_convolution(
    x: Float[Array, "h w i"],
    weight: Float[Array, "kh kw i_per_group o"],
    gain: Float[Array, " o"],
    bias: Float[Array, " o"],
    *,
    standardization: Standardization,
    gamma: float,
    axis_name: str | None,
    **how: Any,
) -> Float[Array, "h_out w_out o"]:
    kernel = _standardized(weight, gain, standardization, gamma, axis_name)
    y = convolve(x, kernel.astype(x.dtype), **how)
    y = y if axis_name is None else jax.lax.psum(y, axis_name)
    return y + bias.astype(x.dtype)


def _standardized(
    weight: Float[Array, "kh kw i_per_group o"],
    gain: Float[Array, " o"],
    standardization: Standardization,
    gamma: float,
    axis_name: str | None,
) -> Float[Array, "kh kw i_per_group o"]:
    scale = (gain * gamma).astype(weight.dtype)
    return STANDARDIZATIONS[standardization](weight, scale, axis_name=axis_name)


def draw_kernel(
    in_channels: int, out_channels: int, size: int, groups: int, key: PRNGKeyArray
) -> Float[Array, "kh kw i_per_group o"]:
    """Draws a square kernel from N(0, 1 / fan_in).

    Raises:
        ValueError: If the size is no whole number of pixels, or `groups` does not divide both
            channel counts.
    """
    if not isinstance(size, numbers.Integral) or size < 1:
        raise ValueError(
            f"kernel_size={size!r} must be the side of a square in pixels, a whole number."
        )
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups={groups} must divide in_channels={in_channels} and "
            f"out_channels={out_channels}."
        )
    shape = (size, size, in_channels // groups, out_channels)
    return jax.random.normal(key, shape) / math.sqrt(math.prod(shape[:-1]))
