"""Decoding and resizing by OpenCV, of the files on which it does what Pillow does."""

import importlib.util
from typing import TYPE_CHECKING

import numpy as np

from nfx.data._crops import Box


if TYPE_CHECKING:
    from PIL import Image


_END_OF_IMAGE = b"\xff\xd9"


def check_opencv() -> None:
    """Raises a `ModuleNotFoundError` that says how to install OpenCV, if it is missing."""
    if importlib.util.find_spec("cv2") is None:
        raise ModuleNotFoundError(
            "decoder='opencv' needs OpenCV: pip install 'nfx[fast]'", name="cv2"
        )


def crop_with_opencv(
    data: bytes, opened: "Image.Image", box: Box, shape: tuple[int, int, int]
) -> np.ndarray | None:
    """Resizes a part of an image by averaging areas, or by a cubic kernel where it grows.

    Args:
        data: The file.
        opened: Its header.
        box: The part, in the image as it is stored.
        shape: Height, width and channels to make of it.

    Returns:
        uint8 of that shape, or None if the file is not for OpenCV: other than an ordinary JPEG,
        or damaged.
    """
    import cv2  # an extra, and slow to import

    height, width, channels = shape
    # OpenCV fills what is missing at the end of a file with gray, and says nothing.
    whole = opened.format == "JPEG" and data.endswith(_END_OF_IMAGE)
    if not whole or opened.mode not in ("RGB", "L"):
        return None
    kind = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    if pixels is None or pixels.shape[:2] != (opened.height, opened.width):
        return None
    part = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    shrinks = box.height >= height and box.width >= width
    resampling = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(part, (width, height), interpolation=resampling).reshape(shape)
