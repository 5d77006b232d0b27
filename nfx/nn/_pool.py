"""Pooling."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

from nfx.nn._convolution import Padding, window_padding


def average_pool(x: Float[Array, "h w c"], window: int, stride: int) -> Float[Array, "h2 w2 c"]:
    """Averages each window over the pixels that are in the image; outputs are `SAME`.

    Padding never counts: at an odd size the last window of a 2x2 pool is the mean of one
    row or column.
    """
    total = _reduce_window(x, 0.0, jax.lax.add, window, stride)
    # Numpy, so that the counts are constants of the program.
    valid = _reduce_window(np.ones((*x.shape[:2], 1), x.dtype), 0.0, jax.lax.add, window, stride)
    return total / valid


def max_pool(
    x: Float[Array, "h w c"], window: int, stride: int, *, padding: Padding = "SAME"
) -> Float[Array, "h2 w2 c"]:
    """Takes the largest value of each window; padding is minus infinity."""
    return _reduce_window(x, -np.inf, jax.lax.max, window, stride, padding)


def _reduce_window(
    x: Array | np.ndarray,
    initial: float,
    operation: Callable[[Array, Array], Array],
    window: int,
    stride: int,
    padding: Padding = "SAME",
) -> Array:
    pixels = window_padding(padding, window)
    # The initial value must be a constant: a traced one loses the gradient rule.
    return jax.lax.reduce_window(
        x,
        np.asarray(initial, x.dtype),
        operation,
        (window, window, 1),
        (stride, stride, 1),
        pixels if isinstance(pixels, str) else (*pixels, (0, 0)),
    )
