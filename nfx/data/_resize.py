"""Resizing as the official evaluation does it: bicubic, without antialiasing."""

from typing import NamedTuple

import numpy as np

from nfx.data._crops import Box


# TensorFlow looks the kernel up at this many positions between two pixels.
_POSITIONS = 1024


class _Taps(NamedTuple):
    """Of each place on an axis of the output: its four pixels of the input, and their weights."""

    pixels: np.ndarray
    weights: np.ndarray


def resize_bicubic(
    pixels: np.ndarray, height: int, width: int, window: Box | None = None
) -> np.ndarray:
    """Resizes an image by Keys' cubic convolution, whatever its aspect.

    Pixels have their centres at halves. Where the image shrinks, the kernel does not widen: it
    takes four pixels an axis, and skips the others. Pixels outside are left out, and the weights
    of the others are divided by their sum. Results may lie outside the range of the input.

    Args:
        pixels: uint8 or float32, shape `(h, w, c)`.
        height: Of the resized image.
        width: Of the resized image.
        window: The part of the resized image that is wanted; nothing else is computed.

    Returns:
        float32, of the shape `(height, width, c)` or the window's.

    References:
        Keys (1981), eq. 4 and 15, whose a is -1/2; TensorFlow's `tf.image.resize` with
        `method="bicubic"`, which rounds positions to 1/1024 of a pixel.
    """
    top, left, rows, columns = window or (0, 0, height, width)
    vertical = _taps(pixels.shape[0], height, top, rows)
    horizontal = _taps(pixels.shape[1], width, left, columns)
    seen, places = np.unique(horizontal.pixels, return_inverse=True)
    horizontal = _Taps(places.reshape(horizontal.pixels.shape), horizontal.weights)
    # Of columns that no output sees, none is summed.
    part = pixels if len(seen) == pixels.shape[1] else pixels.take(seen, axis=1)
    return _sum_rows(_sum_rows(part, vertical).swapaxes(0, 1), horizontal).swapaxes(0, 1)


def _taps(size: int, resized: int, first: int, count: int) -> _Taps:
    """The taps of `count` places from `first` on, of an axis that goes from `size` to `resized`."""
    scale = np.float32(size) / np.float32(resized)
    places = np.arange(first, first + count, dtype=np.float32)
    positions = (places + np.float32(0.5)) * scale - np.float32(0.5)
    below = np.floor(positions)
    beyond = np.rint((positions - below) * _POSITIONS) / _POSITIONS
    pixels = below.astype(np.int64)[:, None] + np.arange(-1, 3)
    weights = _keys_kernel(np.stack([1 + beyond, beyond, 1 - beyond, 2 - beyond], axis=1))
    weights = np.where((pixels >= 0) & (pixels < size), weights, 0)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return _Taps(pixels.clip(0, size - 1), weights)


def _keys_kernel(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel at distances from 0 to 2."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, far)


def _sum_rows(pixels: np.ndarray, taps: _Taps) -> np.ndarray:
    """Weighted sums of rows; the channels are on the last axis."""
    total = np.zeros((len(taps.weights), *pixels.shape[1:]), np.float32)
    for rows, weights in zip(taps.pixels.T, taps.weights.T, strict=True):
        total += pixels[rows] * weights[:, None, None]
    return total
