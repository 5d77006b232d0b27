"""The one place that decides how a convolution is lowered."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def convolve(
    x: Float[Array, "h w i"],
    kernel: Float[Array, "kh kw i_per_group o"],
    *,
    stride: int,
    padding: str | tuple[tuple[int, int], tuple[int, int]],
    groups: int,
) -> Float[Array, "h_out w_out o"]:
    """Convolves one image with a `HWIO` kernel.

    A 1x1 kernel is a matrix product. A grouped kernel is one dense convolution per group:
    the same numbers as `feature_group_count`, which XLA:CPU computes many times slower (see
    benchmarks/convolution.py), and whose weight gradient the partitioner multiplies by the
    size of an idle mesh axis.

    Args:
        x: The image.
        kernel: The kernel; groups take consecutive slices of its output channels.
        stride: Step between output pixels, in input pixels.
        padding: `"SAME"`, or the pixels of zeros before and after each spatial axis.
        groups: Number of channel groups.
    """
    if kernel.shape[:2] == (1, 1) and groups == 1 and padding in ("SAME", ((0, 0), (0, 0))):
        return x[::stride, ::stride] @ kernel[0, 0]
    convolved = [
        jax.lax.conv_general_dilated(
            x_group[None],
            kernel_group,
            window_strides=(stride, stride),
            padding=padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0]
        for x_group, kernel_group in zip(
            jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True
        )
    ]
    return jnp.concatenate(convolved, axis=-1) if groups > 1 else convolved[0]
