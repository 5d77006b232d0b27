"""RandAugment of one image of bytes, as tables of operations."""

import functools as ft
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import get_args, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from nfx.augment import _geometry as geometry, _pixels as pixels


RandAugmentRules = Literal["official", "corrected"]
MAX_LEVEL = 20  # where Posterize keeps all eight bits


class Operation(NamedTuple):
    """One of RandAugment's operations.

    Attributes:
        apply: Takes the image and the arguments, and gives the image.
        arguments: What a level means.
        signed: Whether one of two signs is drawn: `apply` then takes the arguments at that sign.
        placed: Whether a place is drawn: `apply` then takes it last, see `cutout`.
    """

    apply: Callable[..., UInt8[Array, "h w c"]]
    arguments: Callable[[int], tuple[float | int, ...]] = lambda level: ()
    signed: bool = False
    placed: bool = False


def _signed(apply: Callable[..., UInt8[Array, "h w c"]], at_ten: float) -> Operation:
    return Operation(apply, lambda level: (level / 10 * at_ten,), signed=True)


def _enhancement(degenerate: Callable[..., UInt8[Array, "..."]]) -> Operation:
    enhance = ft.partial(pixels.enhance, degenerate=degenerate)
    return Operation(enhance, lambda level: (level / 10 * 1.8 + 0.1,))


def _relative_cutout(
    image: UInt8[Array, "h w c"], half: int, place: Float[Array, " 2"]
) -> UInt8[Array, "h w c"]:
    """Takes pixels of 224 for shares of the image's sides."""
    height, width = (half * side // 224 for side in image.shape[:2])
    return geometry.cutout(image, height, width, place)


# The order is the official code's.
_OFFICIAL = {
    "AutoContrast": Operation(pixels.auto_contrast),
    "Equalize": Operation(pixels.equalize),
    "Invert": Operation(pixels.invert),
    "Rotate": _signed(geometry.official_rotate, 30.0),
    "Posterize": Operation(pixels.posterize, lambda level: (int(level / 10 * 4),)),
    # The threshold is a byte there, which wraps: at level 10, 256 is 0 and all is inverted.
    "Solarize": Operation(pixels.solarize, lambda level: (int(level / 10 * 256) % 256,)),
    "Color": _enhancement(pixels.official_gray),
    "Contrast": _enhancement(pixels.official_mean),
    "Brightness": _enhancement(pixels.black),
    "Sharpness": _enhancement(pixels.official_smooth),
    "ShearX": _signed(geometry.official_shear_x, 0.3),
    "ShearY": _signed(geometry.official_shear_y, 0.3),
    # Pixels, whatever the size of the image.
    "TranslateX": _signed(geometry.official_translate_x, 100.0),
    "TranslateY": _signed(geometry.official_translate_y, 100.0),
    "Cutout": Operation(geometry.cutout, lambda level: (int(level / 10 * 40),) * 2, placed=True),
    "SolarizeAdd": Operation(pixels.solarize_add, lambda level: (int(level / 10 * 110),)),
}

_CORRECTED = _OFFICIAL | {
    "Rotate": _signed(geometry.pillow_rotate, 30.0),
    "Solarize": Operation(pixels.solarize, lambda level: (min(256, int(level / 10 * 256)),)),
    "Color": _enhancement(pixels.pillow_gray),
    "Contrast": _enhancement(pixels.pillow_mean),
    "Sharpness": _enhancement(pixels.pillow_smooth),
    "ShearX": _signed(geometry.pillow_shear_x, 0.3),
    "ShearY": _signed(geometry.pillow_shear_y, 0.3),
    "TranslateX": _signed(geometry.pillow_translate_x, 0.45),
    "TranslateY": _signed(geometry.pillow_translate_y, 0.45),
    "Cutout": Operation(_relative_cutout, lambda level: (int(level / 10 * 40),), placed=True),
    "SolarizeAdd": Operation(pixels.solarize_add, lambda level: (min(128, int(level / 10 * 110)),)),
}

OPERATIONS: Mapping[RandAugmentRules, Mapping[str, Operation]] = MappingProxyType(
    {"official": MappingProxyType(_OFFICIAL), "corrected": MappingProxyType(_CORRECTED)}
)


def randaugment(
    key: PRNGKeyArray,
    image: UInt8[Array, "h w c"],
    *,
    layers: int,
    level: int,
    rules: RandAugmentRules = "official",
) -> UInt8[Array, "h w c"]:
    """Applies operations to an image one after the other, each drawn among all sixteen.

    Over a batch, use `jax.lax.map`: `jax.vmap` would run all operations on every image.

    Args:
        key: Randomness of which operations, of their signs and of Cutout's places.
        image: Pixels, of three channels or one.
        layers: How many operations.
        level: Their magnitude, 0 to 20; 5, 10 and 15 in the paper. An official 405 is four
            layers at level 5.
        rules: "official" for what the official NFNet code computes, with its slips: Solarize's
            threshold wraps at level 10, Contrast does not use the image's mean, and Translate and
            Cutout count pixels whatever the size. "corrected" for what was meant, as timm and
            Pillow have it: to the bit, but for one byte more or less in AutoContrast.

    Raises:
        ValueError: If the rules are unknown, `level` or `layers` out of range, or the channels
            neither three nor one.

    References:
        Cubuk et al. (2020), arXiv:1909.13719; Brock et al. (2021), arXiv:2102.06171.
    """
    check_randaugment(layers, level, rules)
    if image.shape[-1] not in (1, 3):
        raise ValueError(
            f"RandAugment is defined for 3 channels (RGB) or 1 (gray), got images of shape "
            f"{image.shape}; leave it out for other images."
        )
    operations = OPERATIONS[rules].values()
    variants = [_branches(operation, level) for operation in operations]
    branches = [branch for each in variants for branch in each]
    counts = jnp.asarray([len(each) for each in variants])
    which_key, sign_key, place_key = jax.random.split(key, 3)
    which = jax.random.randint(which_key, (layers,), 0, len(variants))
    negative = jax.random.bernoulli(sign_key, shape=(layers,)) & (counts[which] > 1)
    indices = (jnp.cumsum(counts) - counts)[which] + negative.astype(counts.dtype)
    places = jax.random.uniform(place_key, (layers, 2))

    def layer(image: Array, drawn: tuple[Array, Array]) -> tuple[Array, None]:
        index, place = drawn
        return jax.lax.switch(index, branches, image, place), None

    return jax.lax.scan(layer, image, (indices, places))[0]


def check_randaugment(layers: int, level: int, rules: str) -> None:
    """Raises the `ValueError` of `randaugment`, before there is an image."""
    if rules not in OPERATIONS:
        raise ValueError(
            f"Unknown RandAugment rules {rules!r}: choose among {get_args(RandAugmentRules)}."
        )
    if layers < 0 or not 0 <= level <= MAX_LEVEL:
        raise ValueError(
            f"RandAugment needs layers >= 0 and a level of 0 to {MAX_LEVEL}, got layers={layers}, "
            f"level={level}. The official 405 is layers=4, level=5."
        )


def _branches(operation: Operation, level: int) -> list[Callable[[Array, Array], Array]]:
    """One function of an image and a place for each sign that can be drawn."""
    arguments = operation.arguments(level)
    signs = (arguments, tuple(-x for x in arguments))[: 1 + operation.signed]

    def branch(arguments: tuple[float | int, ...]) -> Callable[[Array, Array], Array]:
        if operation.placed:
            return lambda image, place: operation.apply(image, *arguments, place)
        return lambda image, place: operation.apply(image, *arguments)

    return [branch(arguments) for arguments in signs]
