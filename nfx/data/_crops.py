"""Which part of an image is looked at: geometry alone."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np


# Official code, `dataset._distorted_bounding_box_crop`: the share of the image that a crop covers
# at the least. It overrules the smaller areas.
_MIN_COVERED = 0.1

# How often a part is drawn, until one is accepted.
_ATTEMPTS = 10


class Box(NamedTuple):
    """A rectangle of pixels, of an image whose rows go down from 0 and columns right from 0."""

    top: int
    left: int
    height: int
    width: int


class Turn(NamedTuple):
    """How stored pixels become the upright image: rows and columns mirrored, then transposed."""

    mirror_rows: bool
    mirror_columns: bool
    transpose: bool


# By the value of EXIF's tag 0x0112, Orientation (CIPA DC-008, 4.6.4).
TURNS: Mapping[int, Turn] = MappingProxyType(
    {
        1: Turn(False, False, False),
        2: Turn(False, True, False),
        3: Turn(True, True, False),
        4: Turn(True, False, False),
        5: Turn(False, False, True),
        6: Turn(True, False, True),
        7: Turn(True, True, True),
        8: Turn(False, True, True),
    }
)


def sample_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box | None:
    """Draws a part of an image, as the official training does.

    The aspect is uniform. So is the height, between those of the smallest and of the largest
    area, as far as the image goes; the width follows from it. Less than a tenth of the image is
    never accepted, whatever `area` says.

    Args:
        rng: Randomness.
        height: Of the image, in pixels.
        width: Of the image.
        area: The smallest and the largest share of the image.
        aspect: The smallest and the largest ratio of width to height.

    Returns:
        The part, or None if no draw was accepted or it was the whole image: see
        `central_square` for what is then taken instead.

    References:
        TensorFlow's `sample_distorted_bounding_box` on one box, the image, with
        `min_object_covered=0.1`. Like there, the very last of the possible offsets is not drawn.
    """
    for _ in range(_ATTEMPTS):
        size = _sample_size(rng, height, width, area, float(rng.uniform(*aspect)))
        if size is None or size[0] * size[1] < _MIN_COVERED * height * width:
            continue
        if size == (height, width):
            return None
        top, left = (
            int(rng.integers(whole - kept)) if kept < whole else 0
            for whole, kept in zip((height, width), size, strict=True)
        )
        return Box(top, left, *size)
    return None


def central_square(height: int, width: int, size: int, padded: int) -> Box:
    """Returns the square in the middle that becomes `size` pixels when all becomes `padded`.

    "All" is the shorter side.

    Args:
        height: Of the image, in pixels.
        width: Of the image.
        size: Side to which the square will be resized.
        padded: Side to which the shorter side of the image would be; at least `size`.

    References:
        Official code, `dataset._decode_and_center_crop`, with `padded = size + 32`.
    """
    side = max(1, int(min(height / padded, width / padded) * size))
    return Box((height - side + 1) // 2, (width - side + 1) // 2, side, side)


def stored_box(box: Box, turn: Turn, height: int, width: int) -> Box:
    """Returns where a box of the upright image is in the stored one.

    Args:
        box: In the upright image.
        turn: How the stored image becomes the upright one.
        height: Of the stored image.
        width: Of the stored image.
    """
    top, left, rows, columns = box
    if turn.transpose:
        top, left, rows, columns = left, top, columns, rows
    top = height - top - rows if turn.mirror_rows else top
    left = width - left - columns if turn.mirror_columns else left
    return Box(top, left, rows, columns)


def upright(pixels: np.ndarray, turn: Turn) -> np.ndarray:
    """Returns stored pixels `(h, w, c)` the right way up: a view of them."""
    if turn.mirror_rows:
        pixels = pixels[::-1]
    if turn.mirror_columns:
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if turn.transpose else pixels


def _sample_size(
    rng: np.random.Generator,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: float,
) -> tuple[int, int] | None:
    """Draws the height and width of a crop; None where rounding leaves the bounds."""
    smallest, largest = (share * height * width for share in area)
    tallest = min(_largest_height(width, math.sqrt(largest / aspect), aspect), height)
    shortest = min(round(math.sqrt(smallest / aspect)), tallest)
    rows = shortest + int(rng.integers(tallest - shortest + 1))
    # One row more, or one less, may mend what rounding broke.
    if rows * round(rows * aspect) < smallest:
        rows += 1
    if rows * round(rows * aspect) > largest:
        rows -= 1
    columns = round(rows * aspect)
    fits = 0 < rows <= height and 0 < columns <= width
    return (rows, columns) if fits and smallest <= rows * columns <= largest else None


def _largest_height(width: int, height: float, aspect: float) -> int:
    """The largest height up to `height` whose width, rounded, is at most `width`."""
    rows = round(height)
    return rows if round(rows * aspect) <= width else int((width + 0.5 - 1e-7) / aspect)
