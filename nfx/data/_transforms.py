"""What the host makes of an image: a random part to train on, its centre, or what is stored."""

import dataclasses
from typing import Literal, Protocol, runtime_checkable, TYPE_CHECKING

import numpy as np

from nfx.data._crops import Box, central_square, sample_crop, stored_box, Turn, TURNS, upright
from nfx.data._decode import (
    decode,
    from_pixels,
    open_image,
    read_turn,
    refusals,
    to_channels,
    to_pixels,
)
from nfx.data._opencv import check_opencv, crop_with_opencv
from nfx.data._sources import ImageError
from nfx.data._views import VIEWS


if TYPE_CHECKING:
    from PIL import Image


Decoder = Literal["pillow", "opencv"]

# JPEG can be decoded to 1/2, 1/4 or 1/8 of its size, which is faster. The crop keeps at least this
# many times the pixels wanted, on each axis, for the resizing to start from: then photos come out
# as if all of them had been decoded, to 48 dB or more, and pure noise to 40.
_SPARE = 2


@runtime_checkable
class ImageTransform(Protocol):
    """From an image of any size to one of a fixed shape.

    Transforms are values: they can be pickled, and called by several threads. The randomness is
    all in `rng`.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what it returns."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """uint8, or float32 where pixels keep fractions; the scale is 0 to 255 always."""
        ...

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Transforms an image: a file's bytes, or uint8 pixels `(h, w, c)` with c 1 or 3."""
        ...


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A random part of the image, resized to a square, for training; not mirrored.

    Pillow resizes by a bicubic kernel with antialiasing. OpenCV is faster on ordinary JPEG files;
    it averages areas where the crop shrinks, and is cubic where it grows. It is given no other
    files, so that odd and truncated ones are the same under both; of damage inside a file, which
    JPEG does not detect, Pillow at times refuses what OpenCV takes. Large JPEG files Pillow decodes
    to a half, a quarter or an eighth of their size, under both, if a crop keeps at least twice
    the pixels wanted.

    Attributes:
        size: Side of the square.
        channels: 3 for RGB, 1 for gray.
        area: The smallest and the largest share of the image that is kept: see `sample_crop`.
        aspect: The smallest and the largest ratio of width to height.
        decoder: "pillow", or "opencv".

    Raises:
        ValueError: If a number is out of its range, or the decoder unknown.
        ModuleNotFoundError: If the decoder is "opencv" and not installed.
    """

    size: int
    channels: int = 3
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    decoder: Decoder = "pillow"

    def __post_init__(self) -> None:
        """Checks what it was given."""
        _check_square(self.size, self.channels)
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area={self.area}: expected two shares from 0 to 1, in order.")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect={self.aspect}: expected two positive ratios, in order.")
        if self.decoder not in ("pillow", "opencv"):
            raise ValueError(f"decoder={self.decoder!r}: expected 'pillow' or 'opencv'.")
        if self.decoder == "opencv":
            check_opencv()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what it returns."""
        return self.size, self.size, self.channels

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Crops and resizes a file's bytes or uint8 pixels.

        Raises:
            ImageError: If the image cannot be used.
        """
        if isinstance(image, bytes):
            opened = open_image(image)
            turn = read_turn(opened)
        else:
            opened, turn = from_pixels(image, self.channels), TURNS[1]
        box = self._draw(rng, opened, turn)
        scale = _draft_scale(opened, box, self.size)
        pixels = None
        if self.decoder == "opencv" and isinstance(image, bytes) and scale == 1:
            pixels = crop_with_opencv(image, opened, box, self.shape)
        if pixels is None:
            pixels = _crop_with_pillow(opened, box, self.shape, scale)
        return np.ascontiguousarray(upright(pixels, turn))

    def _draw(self, rng: np.random.Generator, opened: "Image.Image", turn: Turn) -> Box:
        """Draws a part of the upright image, and returns where it is stored."""
        height, width = opened.height, opened.width
        sides = (width, height) if turn.transpose else (height, width)
        box = sample_crop(rng, *sides, area=self.area, aspect=self.aspect)
        if box is None:
            box = central_square(*sides, self.size, self.size + 32)
        return stored_box(box, turn, height, width)


@dataclasses.dataclass(frozen=True)
class CentreView:
    """The centre of the image, as a lineage of models is evaluated. Pillow decodes, all of it.

    Attributes:
        size: Side of the square.
        channels: 3 for RGB, 1 for gray.
        rule: How the image becomes the square: a name of `VIEWS`.
        crop: Share of the side of the resized image that is kept; the image is resized to
            `size / crop`. The official `size + 32` at test size is `size / (size + 32)`.

    Raises:
        ValueError: If a number is out of its range, or there is no such rule.
    """

    size: int
    channels: int = 3
    rule: str = "timm"
    crop: float = 1.0

    def __post_init__(self) -> None:
        """Checks what it was given."""
        _check_square(self.size, self.channels)
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop={self.crop}: expected a share of the side, above 0 to 1.")
        if self.rule not in VIEWS:
            raise ValueError(f"There is no view {self.rule!r}. Expected one of {', '.join(VIEWS)}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what it returns."""
        return self.size, self.size, self.channels

    @property
    def dtype(self) -> np.dtype:
        """float32 by the official rules, whose pixels may leave 0 to 255; uint8 by timm's."""
        return VIEWS[self.rule].dtype

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Resizes and crops a file's bytes or uint8 pixels; `rng` is not used.

        Raises:
            ImageError: If the image cannot be used.
        """
        look = VIEWS[self.rule].look
        return np.ascontiguousarray(look(_whole(image, self.channels), self.size, self.crop))


@dataclasses.dataclass(frozen=True)
class AsStored:
    """Pixels as they are, of images that all have one shape.

    Attributes:
        shape: Height, width and channels; 3 for RGB, 1 for gray.
    """

    shape: tuple[int, int, int]

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    def __call__(self, image: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns the pixels, of a file decoded; `rng` is not used.

        Raises:
            ImageError: If they are not of this shape, or the image cannot be used.
        """
        pixels = to_pixels(decode(image, self.shape[2])) if isinstance(image, bytes) else image
        if pixels.shape != self.shape or pixels.dtype != np.uint8:
            raise ImageError(
                f"its pixels are {pixels.dtype} of shape {pixels.shape}, and not uint8 of shape "
                f"{self.shape}"
            )
        return pixels


def _check_square(size: int, channels: int) -> None:
    if size < 1 or channels not in (1, 3):
        raise ValueError(f"size={size}, channels={channels}: expected a size from 1, and 1 or 3.")


def _whole(image: bytes | np.ndarray, channels: int) -> "Image.Image":
    return decode(image, channels) if isinstance(image, bytes) else from_pixels(image, channels)


def _draft_scale(opened: "Image.Image", box: Box, size: int) -> int:
    """By how much a file can be decoded smaller than it is; 1 for other than JPEG."""
    if opened.format != "JPEG":
        return 1
    room = min(box.height, box.width) // (_SPARE * size)
    return next((scale for scale in (8, 4, 2) if scale <= room), 1)


def _crop_with_pillow(
    opened: "Image.Image", box: Box, shape: tuple[int, int, int], scale: int
) -> np.ndarray:
    """Resizes a part of an image by a bicubic kernel with antialiasing.

    Args:
        opened: The image, whose pixels need not have been read.
        box: The part, in the image as it is stored.
        shape: Height, width and channels to make of it.
        scale: By how much to decode it smaller.
    """
    from PIL import Image

    height, width, channels = shape
    if opened.format == "JPEG":
        # The brightness alone, where no color is wanted.
        size = (max(1, opened.width // scale), max(1, opened.height // scale))
        with refusals():
            opened.draft("L" if channels == 1 else None, size)
    image = to_channels(opened, channels)
    left, top = box.left / scale, box.top / scale
    part = (left, top, left + box.width / scale, top + box.height / scale)
    return to_pixels(image.resize((width, height), Image.Resampling.BICUBIC, box=part))
