"""From raw batches to what the network and the loss take, inside the jitted step."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt8

from nfx.augment._mix import cutmix, mixup, weighted_mean
from nfx.augment._randaugment import check_randaugment, randaugment, RandAugmentRules
from nfx.augment._rounding import to_bytes
from nfx.augment._simple import normalize, random_erase, random_flip


Stage = Literal["flip", "randaugment", "mix", "normalize", "erase"]
_STAGES = get_args(Stage)
NFNET_ORDER: tuple[Stage, ...] = ("flip", "mix", "randaugment", "normalize", "erase")
NF_REGNET_ORDER: tuple[Stage, ...] = ("flip", "normalize", "mix")

PixelBatch = UInt8[Array, "n h w c"] | Float[Array, "n h w c"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What happens to training images on the device.

    A stage whose parameters are off does nothing, wherever it stands.

    Attributes:
        flip: Whether to mirror half of the images left to right.
        mixup_alpha: Parameter of MixUp's Beta distribution; 0 for no MixUp.
        cutmix: Whether to paste boxes. With MixUp too, either does half of the images.
        randaugment_layers: How many of RandAugment's operations each image goes through.
        randaugment_level: Their magnitude, 0 to 20.
        randaugment_rules: "official" or "corrected": see `randaugment`.
        erase_probability: Share of the images to erase a box of: see `random_erase`.
        order: The stages, first to last. The NFNets mix raw images, `NFNET_ORDER`, and
            NF-RegNets normalized ones, `NF_REGNET_ORDER`.

    Raises:
        ValueError: If a number is out of range, or the order is not one that can be: with each
            stage at most once and every one that is on, "normalize" in any case, RandAugment
            before it and erasing after.
    """

    flip: bool = True
    mixup_alpha: float = 0.0
    cutmix: bool = False
    randaugment_layers: int = 0
    randaugment_level: int = 10
    randaugment_rules: RandAugmentRules = "official"
    erase_probability: float = 0.0
    order: tuple[Stage, ...] = NFNET_ORDER

    def __post_init__(self):
        if self.mixup_alpha < 0 or not 0 <= self.erase_probability <= 1:
            raise ValueError(
                f"Augmentation needs mixup_alpha >= 0 and an erase_probability of 0 to 1, got "
                f"mixup_alpha={self.mixup_alpha}, erase_probability={self.erase_probability}."
            )
        check_randaugment(self.randaugment_layers, self.randaugment_level, self.randaugment_rules)
        _check_order(self.order, self.active)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, which takes an even number of them on every device."""
        return self.mixup_alpha > 0 or self.cutmix

    @property
    def active(self) -> frozenset[Stage]:
        """The stages that do something."""
        on: dict[Stage, bool] = {
            "flip": self.flip,
            "randaugment": self.randaugment_layers > 0,
            "mix": self.mixes,
            "normalize": True,
            "erase": self.erase_probability > 0,
        }
        return frozenset(stage for stage, active in on.items() if active)


def _check_order(order: tuple[str, ...], active: frozenset[str]) -> None:
    advice = f"The default is {NFNET_ORDER}."
    unknown = sorted(set(order) - set(_STAGES))
    if unknown:
        raise ValueError(f"Unknown stages {unknown} in order={order}: choose among {_STAGES}.")
    repeated = sorted({stage for stage in order if order.count(stage) > 1})
    if repeated:
        raise ValueError(f"Stages {repeated} are more than once in order={order}. {advice}")
    missing = sorted(active - set(order))
    if missing:
        raise ValueError(
            f"Stages {missing} are on and not in order={order}: add them, or set their parameters "
            f"off; images are always normalized. {advice}"
        )
    position = {stage: order.index(stage) for stage in order}
    if position.get("randaugment", -1) > position["normalize"]:
        raise ValueError(
            f"RandAugment works on bytes, so 'randaugment' must come before 'normalize'; got "
            f"order={order}. {advice}"
        )
    if position.get("erase", len(order)) < position["normalize"]:
        raise ValueError(
            f"Boxes are erased with zeros, the mean of normalized images, so 'erase' must come "
            f"after 'normalize'; got order={order}. {advice}"
        )


def augment_batch(
    augmentation: Augmentation,
    keys: Key[Array, " n"],
    indices: Int[Array, " n"],
    images: PixelBatch,
    targets: Float[Array, "n classes"],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple[Float[Array, "n h w c"], Float[Array, "n classes"]]:
    """Augments and normalizes each example with its own randomness.

    Every stage has its own: turning one on changes nothing in what another draws.

    Neighbors mix with each other: the data is shuffled, and a pair is never split over
    devices, so the result is the same on any mesh. An image is thus read once and seen twice,
    in two mixtures, where the official code reads two images for each mixture.

    Args:
        augmentation: What to do, and in which order.
        keys: One key an example: see `example_keys`.
        indices: Where the examples stand in the global batch.
        images: Pixels, as bytes or float32 of 0 to 255. What goes into RandAugment as float32,
            mixed, is clipped and rounded down to bytes, as in the official code.
        targets: A distribution over classes for each image.
        mean: Of the pixels: see `normalize`.
        std: Of the pixels: see `normalize`.

    Returns:
        Normalized images in float32, and their targets.

    Raises:
        ValueError: If an odd number of images is to be mixed.
    """
    for stage in augmentation.order:
        if stage not in augmentation.active:
            continue
        drawn = stage_keys(keys, stage)
        if stage == "normalize":
            images = normalize(images, mean, std)
        elif stage == "mix":
            images = images.astype(jnp.float32)
            images, targets = _mix(augmentation, drawn, indices, images, targets)
        else:
            images = _ALONE[stage](augmentation, drawn, images)
    return images, targets


def stage_keys(keys: Key[Array, " n"], stage: Stage) -> Key[Array, " n"]:
    """Returns the keys of one stage, given those of the examples."""
    number = _STAGES.index(stage)  # of all stages: where it stands in an order does not matter
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _flip(augmentation: Augmentation, keys: Key[Array, " n"], images: PixelBatch) -> PixelBatch:
    return jax.vmap(random_flip)(keys, images)


def _randaugment(
    augmentation: Augmentation, keys: Key[Array, " n"], images: PixelBatch
) -> PixelBatch:
    def one(drawn: tuple[PRNGKeyArray, Array]) -> Array:
        return randaugment(
            *drawn,
            layers=augmentation.randaugment_layers,
            level=augmentation.randaugment_level,
            rules=augmentation.randaugment_rules,
        )

    as_bytes = images if images.dtype == jnp.uint8 else to_bytes(images)
    # One image at a time, so that only the operations that were drawn are run.
    return jax.lax.map(one, (keys, as_bytes)).astype(images.dtype)


def _erase(augmentation: Augmentation, keys: Key[Array, " n"], images: PixelBatch) -> PixelBatch:
    erase = lambda key, image: random_erase(key, image, augmentation.erase_probability)
    return jax.vmap(erase)(keys, images)


# What is done to images alone, not in pairs.
_ALONE: MappingProxyType[Stage, Callable[..., PixelBatch]] = MappingProxyType(
    {"flip": _flip, "randaugment": _randaugment, "erase": _erase}
)


def _mix(
    augmentation: Augmentation,
    keys: Key[Array, " n"],
    indices: Int[Array, " n"],
    images: Float[Array, "n h w c"],
    targets: Float[Array, "n classes"],
) -> tuple[Float[Array, "n h w c"], Float[Array, "n classes"]]:
    if images.shape[0] % 2:
        raise ValueError(
            f"Mixing pairs neighbors, and each device has {images.shape[0]} images: choose a "
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

    images, weights = jax.vmap(mix)(keys, indices, images, _neighbors(images))
    return images, weighted_mean(weights[:, None], targets, _neighbors(targets))


def _neighbors(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Swaps the two of each pair."""
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
