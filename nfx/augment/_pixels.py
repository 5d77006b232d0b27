"""RandAugment's operations on colors: pure, on one image of bytes, `(h, w, 3)` or `(h, w, 1)`.

Images are worked on as rows of `w * c` bytes where neighbors count: three channels as the last
axis would keep the compiler from using vectors.

References:
    Cubuk et al. (2020), arXiv:1909.13719; `autoaugment.py` of the official NFNet code; Pillow's
    `ImageOps` and `ImageEnhance`.
"""

import functools as ft
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num, UInt8

from nfx.augment._rounding import rounded, to_bytes


def invert(image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """Makes a negative."""
    return 255 - image


def posterize(image: UInt8[Array, "h w c"], bits: int) -> UInt8[Array, "h w c"]:
    """Keeps the highest `bits` of each byte, 0 to 8; none of them leave a black image."""
    return image & jnp.uint8(0xFF00 >> bits & 0xFF)


def solarize(image: UInt8[Array, "h w c"], threshold: int) -> UInt8[Array, "h w c"]:
    """Inverts bytes of at least `threshold`, 0 to 256."""
    return jnp.where(image.astype(jnp.int32) < threshold, image, 255 - image)


def solarize_add(image: UInt8[Array, "h w c"], addition: int) -> UInt8[Array, "h w c"]:
    """Adds to bytes below 128, up to 255."""
    added = jnp.minimum(image.astype(jnp.int32) + addition, 255).astype(jnp.uint8)
    return jnp.where(image < 128, added, image)


def auto_contrast(image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """Stretches each channel so that it spans 0 to 255; one of a single value stays.

    In float32 as the official code; Pillow's float64 gives one less or more on a few bytes.
    """
    height, width, channels = image.shape
    columns = image.reshape(height, width * channels)
    low = columns.min(axis=0).reshape(width, channels).min(axis=0).astype(jnp.float32)
    high = columns.max(axis=0).reshape(width, channels).max(axis=0).astype(jnp.float32)
    scale = 255 / jnp.maximum(high - low, 1)
    stretched = to_bytes(rounded(image.astype(jnp.float32) * scale) - rounded(low * scale))
    return jnp.where(high > low, stretched, image)


def equalize(image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """Makes the histogram of each channel flat; one with too few pixels for that stays."""
    channels = image.shape[-1]
    places = image.astype(jnp.int32) + 256 * jnp.arange(channels)
    counts = jnp.zeros(256 * channels, jnp.int32)
    counts = counts.at[places.ravel()].add(1, mode="promise_in_bounds").reshape(channels, 256)
    # A loop, so that the table is there when pixels are read: not computed again for each.
    table = jax.lax.map(_equalizing_table, counts).ravel()
    return table.at[places].get(mode="promise_in_bounds")


def _equalizing_table(counts: Int[Array, " 256"]) -> UInt8[Array, " 256"]:
    values = jnp.arange(256)
    brightest = counts[jnp.max(jnp.where(counts > 0, values, 0))]
    step = (jnp.sum(counts) - brightest) // 255
    below = jnp.cumsum(counts) - counts
    table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, values).astype(jnp.uint8)


def enhance(
    image: UInt8[Array, "h w c"],
    factor: float,
    degenerate: Callable[[UInt8[Array, "h w c"]], UInt8[Array, "..."]],
) -> UInt8[Array, "h w c"]:
    """Goes from a degenerate image (at factor 0) to the image (at 1), and beyond."""
    start = degenerate(image).astype(jnp.float32)
    return to_bytes(start + rounded(factor * (image.astype(jnp.float32) - start)))


def black(image: UInt8[Array, "h w c"]) -> UInt8[Array, "1 1 1"]:
    """What Brightness starts from."""
    return jnp.zeros((1, 1, 1), jnp.uint8)


def official_gray(image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w 1"]:
    """What Color starts from, rounded as TensorFlow does: `floor(255.5 * luminance)`."""
    if image.shape[-1] == 1:
        return image
    weighted = (
        image.astype(jnp.float32) * jnp.float32(1 / 255) * jnp.asarray([0.2989, 0.587, 0.114])
    )
    return to_bytes(255.5 * jnp.sum(rounded(weighted), axis=-1, keepdims=True))


def pillow_gray(image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w 1"]:
    """What Color starts from, rounded as Pillow does: in 16 binary places."""
    if image.shape[-1] == 1:
        return image
    weighted = image.astype(jnp.int32) * jnp.asarray([19595, 38470, 7471])
    return (jnp.sum(weighted, axis=-1, keepdims=True) + 0x8000 >> 16).astype(jnp.uint8)


def official_mean(image: UInt8[Array, "h w c"]) -> UInt8[Array, "1 1 1"]:
    """What Contrast starts from in the official code.

    It averages the counts of a histogram in place of the bytes: the number of pixels over 256,
    at most 255, whatever the image.
    """
    height, width, _ = image.shape
    return jnp.full((1, 1, 1), min(height * width // 256, 255), jnp.uint8)


def pillow_mean(image: UInt8[Array, "h w c"]) -> UInt8[Array, "1 1 1"]:
    """What Contrast starts from: the mean of the gray image, to the nearest byte."""
    gray = pillow_gray(image)
    total = jnp.sum(gray, dtype=jnp.int32)
    return ((total + gray.size // 2) // gray.size).astype(jnp.uint8).reshape(1, 1, 1)


def official_smooth(image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """What Sharpness starts from: the mean of 3 by 3 pixels, the centre five times, rounded down.

    In float32 and in TensorFlow's order: a mean that is whole may come out just below.
    """
    padded = _padded_rows(image).astype(jnp.float32)
    once = rounded(padded * (np.float32(1) / np.float32(13)))
    centre = rounded(padded * (np.float32(5) / np.float32(13)))
    terms = _windows(once, image.shape)
    terms[4] = _windows(centre, image.shape)[4]
    return _inside(image, to_bytes(ft.reduce(jnp.add, terms)))


def pillow_smooth(image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """What Sharpness starts from: as `official_smooth`, rounded to the nearest."""
    windows = _windows(_padded_rows(image).astype(jnp.int32), image.shape)
    total = ft.reduce(jnp.add, windows) + 4 * windows[4]
    return _inside(image, ((total + 6) // 13).astype(jnp.uint8))


def _padded_rows(image: UInt8[Array, "h w c"]) -> UInt8[Array, "_ _"]:
    height, width, channels = image.shape
    return jnp.pad(image.reshape(height, width * channels), ((1, 1), (channels, channels)))


def _windows(padded: Num[Array, "_ _"], shape: tuple[int, ...]) -> list[Num[Array, "_ _"]]:
    """Returns the nine neighbors of every byte, row by row."""
    height, width, channels = shape
    return [
        padded[y : y + height, x * channels : (x + width) * channels]
        for y in range(3)
        for x in range(3)
    ]


def _inside(image: UInt8[Array, "h w c"], rows: UInt8[Array, "h _"]) -> UInt8[Array, "h w c"]:
    """Leaves the image's pixels at the border as they are."""
    height, width, channels = image.shape
    y, x = jnp.arange(height)[:, None], jnp.arange(width * channels)[None]
    inside = (y > 0) & (y < height - 1) & (x >= channels) & (x < (width - 1) * channels)
    return jnp.where(inside, rows, image.reshape(rows.shape)).reshape(image.shape)
