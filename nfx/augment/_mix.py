"""MixUp and CutMix of two examples: what is drawn, and what is done with it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nfx.augment._rounding import rounded


def mixup(
    key: PRNGKeyArray,
    image: Float[Array, "h w c"],
    partner: Float[Array, "h w c"],
    alpha: float,
) -> tuple[Float[Array, "h w c"], Float[Array, ""]]:
    """Blends two images; returns the blend and the weight of the first.

    Args:
        key: Randomness of the weight.
        image: The first image.
        partner: The second.
        alpha: The weight is drawn from Beta(alpha, alpha); 0.2 in the paper.

    References:
        Zhang et al. (2018), arXiv:1710.09412.
    """
    weight = jax.random.beta(key, alpha, alpha, dtype=image.dtype)
    return weighted_mean(weight, image, partner), weight


def cutmix(
    key: PRNGKeyArray, image: Float[Array, "h w c"], partner: Float[Array, "h w c"]
) -> tuple[Float[Array, "h w c"], Float[Array, ""]]:
    """Pastes a box of the first image into the second; returns the first's exact share.

    The centre is uniform over pixels, and the share of the area before the box is cut off at
    the border uniform in (0, 1).

    References:
        Yun et al. (2019), arXiv:1905.04899; official code, `dataset.cutmix_padding`.
    """
    height, width, _ = image.shape
    x_key, y_key, area_key = jax.random.split(key, 3)
    centre_x = jax.random.randint(x_key, (), 0, width)
    centre_y = jax.random.randint(y_key, (), 0, height)
    mask = cutmix_mask(height, width, centre_x, centre_y, jax.random.uniform(area_key))
    return paste(mask, image, partner)


def weighted_mean(
    weight: Float[Array, "..."], first: Float[Array, "..."], second: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Returns what has `weight` of the first and the rest of the second.

    Images or targets; the weight broadcasts against both.
    """
    return rounded(weight * first) + rounded((1 - weight) * second)


def paste(
    mask: Bool[Array, "h w"], image: Float[Array, "h w c"], partner: Float[Array, "h w c"]
) -> tuple[Float[Array, "h w c"], Float[Array, ""]]:
    """Takes the first image inside the mask and the second outside; returns the mask's share."""
    return jnp.where(mask[:, :, None], image, partner), jnp.mean(mask, dtype=image.dtype)


def cutmix_mask(
    height: int,
    width: int,
    centre_x: Int[Array, ""] | int,
    centre_y: Int[Array, ""] | int,
    outside: Float[Array, ""] | float,
) -> Bool[Array, "{height} {width}"]:
    """Returns the box around a centre that leaves about `outside` of the area out."""
    side = jnp.sqrt(1 - jnp.asarray(outside, jnp.float32))

    def within(size: int, centre: Int[Array, ""] | int) -> Bool[Array, " {size}"]:
        length = (side * size).astype(jnp.int32)
        first = jnp.maximum(centre - length // 2, 0)
        last = jnp.minimum(centre + length // 2, size)
        position = jnp.arange(size)
        return (first <= position) & (position < last)

    return within(height, centre_y)[:, None] & within(width, centre_x)[None, :]
