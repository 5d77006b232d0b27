"""What happens to one image alone, RandAugment aside: normalization, mirroring, erasing."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8


Pixels = UInt8[Array, "*shape c"] | Float[Array, "*shape c"]


def normalize(
    image: Pixels, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*shape c"]:
    """Maps pixels to float32 with zero mean and unit variance.

    Args:
        image: uint8, or float32 from 0 to 255, which interpolation may leave a little; channels
            last.
        mean: Mean of each channel, on a scale of 0 to 1; or one number for all.
        std: Standard deviation of each channel, on the same scale.
    """
    # No product is followed by a sum: a compiler may round the two as one, or not.
    return (image.astype(jnp.float32) - 255 * jnp.asarray(mean)) / (255 * jnp.asarray(std))


def random_flip(key: PRNGKeyArray, image: Pixels) -> Pixels:
    """Mirrors the image `(h, w, c)` left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def random_erase(
    key: PRNGKeyArray, image: Float[Array, "h w c"], probability: float
) -> Float[Array, "h w c"]:
    """Puts zeros, the mean of a normalized image, in a box with the given probability.

    The box has 2 % to a third of the area, and sides whose ratio is between 0.3 and 1/0.3,
    uniform in its logarithm. Ten are drawn and the first that is smaller than the image taken,
    which is almost always the first; if there is none, nothing is erased.

    References:
        Zhong et al. (2017), arXiv:1708.04896; constants of timm's `RandomErasing`.
    """
    height, width, _ = image.shape
    whether_key, area_key, ratio_key, place_key = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(area_key, (10,), minval=0.02, maxval=1 / 3)
    bound = math.log(1 / 0.3)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (10,), minval=-bound, maxval=bound))
    heights, widths = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    place = jax.random.uniform(place_key, (2,))

    def within(size: int, length: Array, place: Array) -> Array:
        start = jnp.floor(place * (size - length + 1))
        position = jnp.arange(size, dtype=jnp.float32)
        return (start <= position) & (position < start + length)

    rows, columns = within(height, heights[first], place[0]), within(width, widths[first], place[1])
    erased = fits[first] & jax.random.bernoulli(whether_key, probability)
    return jnp.where((rows[:, None] & columns & erased)[..., None], 0, image)
