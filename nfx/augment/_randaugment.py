"""RandAugment of one image of bytes, as tables of operations."""

import functools as ft
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import get_args, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, UInt8

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


def _factor(level: int) -> tuple[float]:
    return (level / 10 * 1.8 + 0.1,)


def _enhancement(degenerate: Callable[..., UInt8[Array, "..."]]) -> Operation:
    return Operation(ft.partial(pixels.enhance, degenerate=degenerate), _factor)


def _moved(
    transform: Callable[..., UInt8[Array, "h w c"]], matrix: Callable[..., geometry.Matrix]
) -> Callable[..., UInt8[Array, "h w c"]]:
    return lambda image, *arguments: transform(image, matrix(*arguments))


def _relative_cutout(
    image: UInt8[Array, "h w c"], share: float, place: Array
) -> UInt8[Array, "h w c"]:
    height, width = (int(share * side) for side in image.shape[:2])
    return geometry.cutout(image, height, width, place)


# The order is the official code's.
_OFFICIAL = {
    "AutoContrast": Operation(pixels.auto_contrast),
    "Equalize": Operation(pixels.equalize),
    "Invert": Operation(pixels.invert),
    "Rotate": Operation(geometry.official_rotate, lambda m: (m / 10 * 30,), signed=True),
    "Posterize": Operation(pixels.posterize, lambda m: (int(m / 10 * 4),)),
    # The threshold is a byte there, which wraps: at level 10, 256 is 0 and all is inverted.
    "Solarize": Operation(pixels.solarize, lambda m: (int(m / 10 * 256) % 256,)),
    "Color": _enhancement(pixels.official_gray),
    "Contrast": _enhancement(pixels.official_mean),
    "Brightness": _enhancement(pixels.black),
    "Sharpness": _enhancement(pixels.official_smooth),
    "ShearX": Operation(
        _moved(geometry.official_transform, geometry.shear_x),
        lambda m: (m / 10 * 0.3,),
        signed=True,
    ),
    "ShearY": Operation(
        _moved(geometry.official_transform, geometry.shear_y),
        lambda m: (m / 10 * 0.3,),
        signed=True,
    ),
    # Pixels, whatever the size of the image.
    "TranslateX": Operation(
        _moved(geometry.official_transform, lambda x: geometry.translation(x, 0.0)),
        lambda m: (m / 10 * 100,),
        signed=True,
    ),
    "TranslateY": Operation(
        _moved(geometry.official_transform, lambda y: geometry.translation(0.0, y)),
        lambda m: (m / 10 * 100,),
        signed=True,
    ),
    "Cutout": Operation(geometry.cutout, lambda m: (int(m / 10 * 40),) * 2, placed=True),
    "SolarizeAdd": Operation(pixels.solarize_add, lambda m: (int(m / 10 * 110),)),
}

_CORRECTED = _OFFICIAL | {
    "Rotate": Operation(geometry.pillow_rotate, lambda m: (m / 10 * 30,), signed=True),
    "Solarize": Operation(pixels.solarize, lambda m: (min(256, int(m / 10 * 256)),)),
    "Color": _enhancement(pixels.pillow_gray),
    "Contrast": _enhancement(pixels.pillow_mean),
    "Sharpness": _enhancement(pixels.pillow_smooth),
    "ShearX": Operation(
        _moved(geometry.pillow_transform, geometry.shear_x), lambda m: (m / 10 * 0.3,), signed=True
    ),
    "ShearY": Operation(
        _moved(geometry.pillow_transform, geometry.shear_y), lambda m: (m / 10 * 0.3,), signed=True
    ),
    "TranslateX": Operation(
        lambda image, share: geometry.pillow_translate(image, share, 0.0),
        lambda m: (m / 10 * 0.45,),
        signed=True,
    ),
    "TranslateY": Operation(
        lambda image, share: geometry.pillow_translate(image, 0.0, share),
        lambda m: (m / 10 * 0.45,),
        signed=True,
    ),
    # What the official pixels are of its 224.
    "Cutout": Operation(_relative_cutout, lambda m: (m / 10 * 40 / 224,), placed=True),
    "SolarizeAdd": Operation(pixels.solarize_add, lambda m: (min(128, int(m / 10 * 110)),)),
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
        Cubuk et al. (2020), arXiv:1909.13719; Brock et al. (2021), arXiv:2102.06171, appendix A.
    """
    check_randaugment(layers, level, rules)
    if image.shape[-1] not in (1, 3):
        raise ValueError(
            f"RandAugment is defined for 3 channels (RGB) or 1 (gray), got images of shape "
            f"{image.shape}; leave it out for other images."
        )
    operations = OPERATIONS[rules].values()
    branches = [branch for operation in operations for branch in _branches(operation, level)]
    firsts, first = [], 0
    for operation in operations:
        firsts.append(first)
        first += 1 + operation.signed
    signed = jnp.asarray([operation.signed for operation in operations])
    which_key, sign_key, place_key = jax.random.split(key, 3)
    which = jax.random.randint(which_key, (layers,), 0, len(firsts))
    negative = jax.random.bernoulli(sign_key, shape=(layers,)) & signed[which]
    indices = jnp.asarray(firsts)[which] + negative.astype(jnp.int32)
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
