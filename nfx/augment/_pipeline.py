"""From raw batches to what the network and the loss take, inside the jitted step."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt8

from nfx.augment._mix import cutmix, mixup


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What happens to training images on the device, in the order of the fields.

    Attributes:
        flip: Whether to mirror half of the images left to right.
        mixup_alpha: Parameter of MixUp's Beta distribution; 0 for no MixUp.
        cutmix: Whether to paste boxes. With MixUp too, either does half of the images.
    """

    flip: bool = True
    mixup_alpha: float = 0.0
    cutmix: bool = False

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, which takes an even number of them on every device."""
        return self.mixup_alpha > 0 or self.cutmix


def normalize(
    image: UInt8[Array, "*shape c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*shape c"]:
    """Maps bytes to float32 with zero mean and unit variance.

    Args:
        image: Pixels from 0 to 255, channels last.
        mean: Mean of each channel, on a scale of 0 to 1; or one number for all.
        std: Standard deviation of each channel, on the same scale.
    """
    return (image.astype(jnp.float32) / 255 - jnp.asarray(mean)) / jnp.asarray(std)


def random_flip(key: PRNGKeyArray, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Mirrors the image left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def augment_batch(
    augmentation: Augmentation,
    keys: Key[Array, " n"],
    indices: Int[Array, " n"],
    images: Float[Array, "n h w c"],
    targets: Float[Array, "n classes"],
) -> tuple[Float[Array, "n h w c"], Float[Array, "n classes"]]:
    """Augments each example with its own randomness.

    Neighbours mix with each other: the data is shuffled, and a pair is never split over
    devices, so the result is the same on any mesh.

    Args:
        augmentation: What to do.
        keys: One key an example: see `example_keys`.
        indices: Where the examples stand in the global batch.
        images: Pixels, normalised or not.
        targets: A distribution over classes for each image.

    Raises:
        ValueError: If an odd number of images is to be mixed.
    """
    flip_keys, mix_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    if augmentation.flip:
        images = jax.vmap(random_flip)(flip_keys, images)
    if not augmentation.mixes:
        return images, targets
    if images.shape[0] % 2:
        raise ValueError(
            f"Mixing pairs neighbours, and each device has {images.shape[0]} images: choose a "
            "batch size that gives every device an even number."
        )

    def mix(key: PRNGKeyArray, index: Array, image: Array, partner: Array) -> tuple[Array, Array]:
        if not augmentation.cutmix:
            return mixup(key, image, partner, augmentation.mixup_alpha)
        cut = cutmix(key, image, partner)
        if augmentation.mixup_alpha <= 0:
            return cut
        blend = mixup(key, image, partner, augmentation.mixup_alpha)
        # Whole pairs alternate, so that both images of a pair are mixed in the same way.
        return jax.tree.map(lambda a, b: jnp.where(index // 2 % 2 == 0, a, b), blend, cut)

    partners, partner_targets = _neighbours(images), _neighbours(targets)
    images, weights = jax.vmap(mix)(mix_keys, indices, images, partners)
    weights = weights[:, None]
    return images, weights * targets + (1 - weights) * partner_targets


def _neighbours(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Swaps the two of each pair."""
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
