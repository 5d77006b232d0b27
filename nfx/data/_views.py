"""How lineages of models look at an image when they are evaluated: a table of rules."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TYPE_CHECKING

import numpy as np

from nfx.data._crops import Box, central_square
from nfx.data._decode import check_pixels, to_pixels
from nfx.data._resize import resize_bicubic


if TYPE_CHECKING:
    from PIL import Image


class ViewRule(NamedTuple):
    """A rule of evaluation.

    Attributes:
        dtype: Of the pixels.
        look: From an image, the side of the square, and the share of the side of the resized
            image that is kept, to pixels of shape `(size, size, c)`, from 0 to 255.
    """

    dtype: np.dtype
    look: "Callable[[Image.Image, int, float], np.ndarray]"


def _official_squash(image: "Image.Image", size: int, crop: float) -> np.ndarray:
    """The centre of the image resized to a square, its aspect lost.

    References:
        Official code, `dataset.py`, "resize_crop_32" and "resize_crop_<share>".
    """
    side = _padded(size, crop)
    offset = (side - size + 1) // 2
    return resize_bicubic(to_pixels(image), side, side, Box(offset, offset, size, size))


def _official_crop(image: "Image.Image", size: int, crop: float) -> np.ndarray:
    """The central square of the image, resized.

    References:
        Official code, `dataset.py`, "crop_resize".
    """
    box = central_square(image.height, image.width, size, _padded(size, crop))
    pixels = to_pixels(image)[box.top : box.top + box.height, box.left : box.left + box.width]
    return resize_bicubic(pixels, size, size)


def _timm(image: "Image.Image", size: int, crop: float) -> np.ndarray:
    """The centre of the image resized by its shorter side.

    References:
        timm, `create_transform` with `crop_mode="center"`; torchvision, `Resize`.
    """
    side = math.floor(size / crop)
    short, long = sorted(image.size)
    other = int(side * long / short)
    sides = (side, other) if image.width <= image.height else (other, side)
    return _resized_centre(image, sides, size)


def _timm_squash(image: "Image.Image", size: int, crop: float) -> np.ndarray:
    """The centre of the image resized to a square, its aspect lost.

    References:
        timm, `create_transform` with `crop_mode="squash"`.
    """
    side = math.floor(size / crop)
    return _resized_centre(image, (side, side), size)


# Models' cards name the rule that their accuracy was published by.
VIEWS: Mapping[str, ViewRule] = MappingProxyType(
    {
        "official_squash": ViewRule(np.dtype(np.float32), _official_squash),
        "official_crop": ViewRule(np.dtype(np.float32), _official_crop),
        "timm": ViewRule(np.dtype(np.uint8), _timm),
        "timm_squash": ViewRule(np.dtype(np.uint8), _timm_squash),
    }
)


def _padded(size: int, crop: float) -> int:
    """Side of the resized image: `size + 32` if the share is `size / (size + 32)`."""
    return int(size / crop + 1e-6)  # a quotient that is a whole number may come out below it


def _resized_centre(image: "Image.Image", sides: tuple[int, int], size: int) -> np.ndarray:
    """The centre of an image resized to a width and a height, by an antialiased bicubic kernel.

    References:
        torchvision, `CenterCrop`: halves are rounded to even. It pads images smaller than the
        square; with shares up to 1 there are none.

    Raises:
        ImageError: If it would have more pixels than Pillow's `MAX_IMAGE_PIXELS`.
    """
    from PIL import Image

    width, height = sides
    check_pixels(width, height, f"at {width} by {height}, as it would be resized, ")
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    pixels = to_pixels(image.resize(sides, Image.Resampling.BICUBIC))
    return pixels[top : top + size, left : left + size]
