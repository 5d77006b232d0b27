"""The convolution that layers call."""

from typing import get_args, Literal

import jax
from jaxtyping import Array, Float

from nfx._names import check_choice
from nfx.nn._formulations import Geometry
from nfx.nn._lowering import convolution


Padding = Literal["SAME", "symmetric"]


def window_padding(padding: str, size: int) -> str | tuple[tuple[int, int], ...]:
    """Returns what JAX takes as padding: `"SAME"`, or the pixels on each side.

    `"SAME"` is TensorFlow's rule, with the odd pixel after the image; `"symmetric"` is
    PyTorch's `(size - 1) // 2` on each side. At stride 2 and even sizes they sample different
    pixels.

    Raises:
        ValueError: If there is no such rule.
    """
    check_choice("padding", padding, get_args(Padding))
    margin = ((size - 1) // 2, (size - 1) // 2)
    return "SAME" if padding == "SAME" else (margin, margin)


def window_edges(
    padding: Padding, sizes: tuple[int, int], window: int, stride: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the pixels that go before and after each dimension of an image.

    Args:
        padding: See `window_padding`.
        sizes: Height and width of the image.
        window: Side of the window.
        stride: Step between windows.
    """
    pixels = window_padding(padding, window)
    if isinstance(pixels, str):
        pixels = jax.lax.padtype_to_pads(sizes, (window, window), (stride, stride), pixels)
    (top, bottom), (left, right) = pixels
    return (top, bottom), (left, right)


def convolve(
    x: Float[Array, "h w i"],
    kernel: Float[Array, "kh kw i_per_group o"],
    *,
    stride: int,
    padding: Padding,
    groups: int,
) -> Float[Array, "h_out w_out o"]:
    """Convolves one image with a square `HWIO` kernel.

    How it is computed is decided when it is compiled, by shape and platform: see
    `nfx.nn.LOWERINGS`. It can be differentiated any number of times in either direction, mapped
    by `jax.vmap` (kernels too), used inside `jax.shard_map`, which inserts the sums over the mesh,
    and outside of it with a batch that is split over devices, in JAX's Auto and Explicit mode.

    Args:
        x: The image.
        kernel: The kernel; groups take consecutive slices of its output channels.
        stride: Step between output pixels, in input pixels.
        padding: See `window_padding`.
        groups: Number of channel groups.

    Raises:
        ValueError: If `x` is not one image, the kernel is not square or does not have the channels
            of a group of the image, or `groups` does not divide its outputs.
        TypeError: If they have different dtypes.
    """
    if x.ndim != 3:
        raise ValueError(
            f"x has shape {x.shape}: a convolution takes one image, (height, width, channels), and "
            "jax.vmap makes it take a batch."
        )
    if x.shape[2] != kernel.shape[2] * groups or kernel.shape[3] % groups:
        raise ValueError(
            f"x has shape {x.shape} and the kernel {kernel.shape}: with groups={groups}, x must "
            f"have {kernel.shape[2] * groups} channels, which come last, and the kernel's outputs "
            "must be a multiple of the groups."
        )
    if kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"The kernel has shape {kernel.shape}, and kernels are square.")
    if x.dtype != kernel.dtype:
        raise TypeError(f"x is {x.dtype} and the kernel {kernel.dtype}: cast one to the other's.")
    (height, width), (kh, kw) = x.shape[:2], kernel.shape[:2]
    geometry = Geometry(
        image=(height, width),
        kernel=(kh, kw),
        padding=window_edges(padding, (height, width), kh, stride),
        stride=stride,
        groups=groups,
        channels=kernel.shape[2],
    )
    return convolution(x[None], kernel, geometry)[0]
