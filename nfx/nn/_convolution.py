"""The one place that decides how a convolution is lowered."""

from typing import get_args, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


Padding = Literal["SAME", "symmetric"]


def window_padding(padding: str, size: int) -> str | tuple[tuple[int, int], ...]:
    """Returns JAX's name for how a window of `size` pixels is padded.

    `"SAME"` is TensorFlow's rule, with the odd pixel after the image; `"symmetric"` is
    PyTorch's `(size - 1) // 2` on each side. At stride 2 and even sizes they sample different
    pixels.

    Raises:
        ValueError: If there is no such rule.
    """
    if padding not in get_args(Padding):
        raise ValueError(f"padding={padding!r} must be 'SAME' or 'symmetric'.")
    margin = ((size - 1) // 2, (size - 1) // 2)
    return "SAME" if padding == "SAME" else (margin, margin)


def convolve(
    x: Float[Array, "h w i"],
    kernel: Float[Array, "kh kw i_per_group o"],
    *,
    stride: int,
    padding: Padding,
    groups: int,
) -> Float[Array, "h_out w_out o"]:
    """Convolves one image with a square `HWIO` kernel.

    A 1x1 kernel is a matrix product. A grouped kernel is one dense convolution per group:
    the same numbers as `feature_group_count`, which XLA:CPU computes many times slower (see
    benchmarks/convolution.py), and whose weight gradient the partitioner multiplies by the
    size of an idle mesh axis.

    Args:
        x: The image.
        kernel: The kernel; groups take consecutive slices of its output channels.
        stride: Step between output pixels, in input pixels.
        padding: See `window_padding`.
        groups: Number of channel groups.
    """
    if kernel.shape[:2] == (1, 1) and groups == 1:
        return x[::stride, ::stride] @ kernel[0, 0]
    convolved = [
        jax.lax.conv_general_dilated(
            x_group[None],
            kernel_group,
            window_strides=(stride, stride),
            padding=window_padding(padding, kernel.shape[0]),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0]
        for x_group, kernel_group in zip(
            jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True
        )
    ]
    return jnp.concatenate(convolved, axis=-1) if groups > 1 else convolved[0]
