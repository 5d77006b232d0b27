"""Pooling."""

import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfx.nn._convolve import Padding, window_edges


def average_pool(x: Float[Array, "h w c"], window: int, stride: int) -> Float[Array, "h2 w2 c"]:
    """Averages each window over the pixels that are in the image; outputs are `SAME`.

    Padding never counts: at an odd size the last window of a 2x2 pool is the mean of one
    row or column.
    """
    total = _sum_windows(x, window, stride)
    # Numpy, so that the counts are constants of the program.
    valid = _sum_windows(np.ones((*x.shape[:2], 1), x.dtype), window, stride)
    return total / valid


def max_pool(
    x: Float[Array, "h w c"], window: int, stride: int, *, padding: Padding = "SAME"
) -> Float[Array, "h2 w2 c"]:
    """Takes the largest value of each window; padding is minus infinity.

    Of pixels of a window that are equally large, each gets a share of the gradient. It is the
    largest of shifted images: on a CPU, the gradient of XLA's own takes four times as long.
    """
    sizes = x.shape[0], x.shape[1]
    pixels = window_edges(padding, sizes, window, stride)
    padded = jnp.pad(x, (*pixels, (0, 0)), constant_values=-jnp.inf)
    height, width = (
        size + sum(edges) - window + 1 for size, edges in zip(sizes, pixels, strict=True)
    )
    shifted = [
        padded[i : i + height : stride, j : j + width : stride]
        for i in range(window)
        for j in range(window)
    ]
    return ft.reduce(jnp.maximum, shifted)


def _sum_windows(x: Array | np.ndarray, window: int, stride: int) -> Array:
    return jax.lax.reduce_window(
        x,
        np.zeros((), x.dtype),  # a constant: a traced one loses the gradient rule
        jax.lax.add,
        (window, window, 1),
        (stride, stride, 1),
        "SAME",
    )
