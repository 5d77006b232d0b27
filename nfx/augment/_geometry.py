"""RandAugment's operations that move pixels: pure, on one image of bytes.

Every one reads, for each pixel, the nearest pixel of the image at an affine function of its place:
`(x, y) -> (a x + b y + c, d x + e y + f)`, written `(a, b, c, d, e, f)`. What is read from outside
is gray. Magnitudes are numbers of Python, so that matrices are computed before compiling, in
their reference's precision.

References:
    Official rules: `ImageProjectiveTransformV3` of TensorFlow and TensorFlow Addons, in float32,
    halves away from zero. Pillow's: `Image.transform` and its `Geometry.c`, in 16.16 fixed point.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8


FILL = 128
Matrix = tuple[float, float, float, float, float, float]


def official_transform(image: UInt8[Array, "h w c"], matrix: Matrix) -> UInt8[Array, "h w c"]:
    """Applies an affine transform as TensorFlow does."""
    height, width, _ = image.shape
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    a, b, c, d, e, f = np.asarray(matrix, np.float32)

    def nearest(place: Float[Array, "h w"]) -> Int[Array, "h w"]:
        return jax.lax.round(place, jax.lax.RoundingMethod.AWAY_FROM_ZERO).astype(jnp.int32)

    # Products before compiling and sums after, so that each is rounded on its own.
    source_x = jnp.asarray(a * x) + jnp.asarray(b * y) + c
    source_y = jnp.asarray(d * x) + jnp.asarray(e * y) + f
    return _read(image, nearest(source_x), nearest(source_y))


def official_rotate(image: UInt8[Array, "h w c"], degrees: float) -> UInt8[Array, "h w c"]:
    """Rotates around the centre as TensorFlow Addons does."""
    height, width, _ = image.shape
    angle = np.float32(degrees * math.pi / 180)
    cos, sin = np.cos(angle), np.sin(angle)
    right, bottom = np.float32(width - 1), np.float32(height - 1)
    x = (right - (cos * right - sin * bottom)) / np.float32(2)
    y = (bottom - (sin * right + cos * bottom)) / np.float32(2)
    a, b, c, d, e, f = map(float, (cos, -sin, x, sin, cos, y))
    return official_transform(image, (a, b, c, d, e, f))


def official_shear_x(image: UInt8[Array, "h w c"], factor: float) -> UInt8[Array, "h w c"]:
    """Shifts rows to the side, more and more downwards."""
    return official_transform(image, (1.0, factor, 0.0, 0.0, 1.0, 0.0))


def official_shear_y(image: UInt8[Array, "h w c"], factor: float) -> UInt8[Array, "h w c"]:
    """Shifts columns upwards, more and more to the right."""
    return official_transform(image, (1.0, 0.0, 0.0, factor, 1.0, 0.0))


def official_translate_x(image: UInt8[Array, "h w c"], shift: float) -> UInt8[Array, "h w c"]:
    """Shifts the image to the left by pixels."""
    return official_transform(image, (1.0, 0.0, shift, 0.0, 1.0, 0.0))


def official_translate_y(image: UInt8[Array, "h w c"], shift: float) -> UInt8[Array, "h w c"]:
    """Shifts the image upwards by pixels."""
    return official_transform(image, (1.0, 0.0, 0.0, 0.0, 1.0, shift))


def pillow_transform(image: UInt8[Array, "h w c"], matrix: Matrix) -> UInt8[Array, "h w c"]:
    """Applies an affine transform as Pillow does."""
    height, width, _ = image.shape
    a, b, c, d, e, f = matrix
    x, y = jnp.arange(width), jnp.arange(height)[:, None]

    def whole(along_x: float, along_y: float, start: float) -> Int[Array, "h w"]:
        fixed = lambda value: math.floor(value * 65536 + 0.5)
        centre = fixed(start + 0.5 * along_x + 0.5 * along_y)
        return fixed(along_x) * x + fixed(along_y) * y + centre >> 16

    return _read(image, whole(a, b, c), whole(d, e, f))


def pillow_rotate(image: UInt8[Array, "h w c"], degrees: float) -> UInt8[Array, "h w c"]:
    """Rotates around the centre as Pillow does: counter-clockwise."""
    height, width, _ = image.shape
    angle = -math.radians(degrees % 360)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return pillow_transform(
        image, (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)
    )


def pillow_shear_x(image: UInt8[Array, "h w c"], factor: float) -> UInt8[Array, "h w c"]:
    """As `official_shear_x`."""
    return pillow_transform(image, (1.0, factor, 0.0, 0.0, 1.0, 0.0))


def pillow_shear_y(image: UInt8[Array, "h w c"], factor: float) -> UInt8[Array, "h w c"]:
    """As `official_shear_y`."""
    return pillow_transform(image, (1.0, 0.0, 0.0, factor, 1.0, 0.0))


def pillow_translate_x(image: UInt8[Array, "h w c"], share: float) -> UInt8[Array, "h w c"]:
    """Shifts the image to the left by a share of its width."""
    return pillow_transform(image, (1.0, 0.0, _whole(share * image.shape[1]), 0.0, 1.0, 0.0))


def pillow_translate_y(image: UInt8[Array, "h w c"], share: float) -> UInt8[Array, "h w c"]:
    """Shifts the image upwards by a share of its height."""
    return pillow_transform(image, (1.0, 0.0, 0.0, 0.0, 1.0, _whole(share * image.shape[0])))


def _whole(shift: float) -> float:
    """Rounds as Pillow does where nothing is scaled: in float64, and not in fixed point."""
    return float(math.floor(shift + 0.5))


def cutout(
    image: UInt8[Array, "h w c"],
    half_height: int,
    half_width: int,
    place: Float[Array, " 2"],
) -> UInt8[Array, "h w c"]:
    """Fills a box with gray; what of it is outside of the image is cut off.

    Args:
        image: The image.
        half_height: Half of the box's height, in pixels.
        half_width: Half of its width.
        place: Where its centre is, as shares of the height and of the width, below 1.
    """
    size = jnp.asarray(image.shape[:2])
    centre_y, centre_x = jnp.floor(place * size.astype(jnp.float32)).astype(jnp.int32)
    y, x = jnp.arange(image.shape[0]), jnp.arange(image.shape[1])
    rows = (y >= centre_y - half_height) & (y < centre_y + half_height)
    columns = (x >= centre_x - half_width) & (x < centre_x + half_width)
    return jnp.where((rows[:, None] & columns)[..., None], jnp.uint8(FILL), image)


def _read(
    image: UInt8[Array, "h w c"], x: Int[Array, "h w"], y: Int[Array, "h w"]
) -> UInt8[Array, "h w c"]:
    height, width, channels = image.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = jnp.where(inside, y * width + x, 0)
    pixels = image.reshape(height * width, channels).at[places].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], pixels, jnp.uint8(FILL))
