"""From the bytes of a file to pixels, or to the reason why not. Pillow is imported when needed."""

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nfx.data._crops import Turn, TURNS
from nfx.data._sources import ImageError


if TYPE_CHECKING:
    from PIL import Image


# What Pillow may take a file for, the commonest first. It knows more: none is common in sets of
# photos, some start other programs (EPS), and those not tried here cost no time.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

_ORIENTATION = 0x0112

# How Pillow names the turns of `TURNS`.
_TRANSPOSITIONS = {
    TURNS[2]: "FLIP_LEFT_RIGHT",
    TURNS[3]: "ROTATE_180",
    TURNS[4]: "FLIP_TOP_BOTTOM",
    TURNS[5]: "TRANSPOSE",
    TURNS[6]: "ROTATE_270",
    TURNS[7]: "TRANSVERSE",
    TURNS[8]: "ROTATE_90",
}


def decode(data: bytes, channels: int) -> "Image.Image":
    """Decodes an image, upright, to 8 bits a channel.

    EXIF's orientation is followed, which the official code and timm do not look at. What is
    transparent is seen on white, as a drawing on a transparent ground is meant to be. 16 bits of
    gray are scaled to 8. Of an animation, the first frame is taken.

    Args:
        data: A whole file: JPEG, PNG, WebP, GIF, BMP, TIFF or PPM.
        channels: 3 for RGB, 1 for gray.

    Raises:
        ImageError: If it is empty, not an image, truncated, too large, or of unknown scale.
    """
    image = open_image(data)
    turn = read_turn(image)
    image = to_channels(image, channels)
    return turned(image, turn)


def open_image(data: bytes) -> "Image.Image":
    """Reads the header of an image, and leaves its pixels for later.

    Raises:
        ImageError: If there is no header, or an image larger than Pillow's `MAX_IMAGE_PIXELS`.
    """
    from PIL import Image

    if not data:
        raise ImageError("it is empty")
    with refusals():
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            limit = Image.MAX_IMAGE_PIXELS
            raise ImageError(f"it has more than {limit} pixels, Pillow's limit") from error
    check_pixels(*image.size)  # Pillow warns up to its double
    if min(image.size) < 1:
        raise ImageError(f"it is {image.width} by {image.height} pixels")
    return image


def check_pixels(width: int, height: int, where: str = "") -> None:
    """Refuses an image that has more pixels than Pillow's `MAX_IMAGE_PIXELS`.

    Raises:
        ImageError: If it has, `where` it is as large.
    """
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ImageError(f"{where}it has more than {limit} pixels, Pillow's limit")


def read_turn(image: "Image.Image") -> Turn:
    """Returns what has to be done to an image to see it upright.

    Of JPEG, the pixels are not read: the header says it.

    Raises:
        ImageError: If another format's pixels cannot be read.
    """
    if image.format in ("JPEG", "MPO"):
        if not ("exif" in image.info or "xmp" in image.info):
            return TURNS[1]
    else:
        load(image)  # PNG may say it after the pixels; TIFF is turned by Pillow while it reads
    try:
        return TURNS.get(image.getexif().get(_ORIENTATION, 1), TURNS[1])
    except Exception:  # a damaged note on how a camera was held is no reason to lose the photo
        return TURNS[1]


def load(image: "Image.Image") -> None:
    """Reads the pixels of an opened image.

    Raises:
        ImageError: If they are damaged or truncated.
    """
    with refusals():
        image.load()


def to_channels(image: "Image.Image", channels: int) -> "Image.Image":
    """Converts an image to RGB or gray of 8 bits: see `decode`.

    Raises:
        ImageError: If it cannot be read, or does not say what its white is.
    """
    load(image)
    mode = "RGB" if channels == 3 else "L"
    if image.mode == mode and "transparency" not in image.info:
        return image
    with refusals():
        if image.mode.startswith(("I", "F")):
            image = _to_8_bits(image)
        elif image.has_transparency_data:
            image = _on_white(image)
        return image.convert(mode)


def turned(image: "Image.Image", turn: Turn) -> "Image.Image":
    """Returns an image the right way up."""
    from PIL import Image

    if turn == TURNS[1]:
        return image
    return image.transpose(getattr(Image.Transpose, _TRANSPOSITIONS[turn]))


def from_pixels(pixels: np.ndarray, channels: int) -> "Image.Image":
    """Takes pixels for an image, and converts it to RGB or gray.

    Raises:
        ImageError: If they are not uint8 of shape `(h, w, 1)` or `(h, w, 3)`, or there are none.
    """
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ImageError(
            f"its pixels are {pixels.dtype} of shape {pixels.shape}, and not uint8 of shape "
            "(height, width, 1 or 3)"
        )
    if not pixels.size:
        raise ImageError(f"it is {pixels.shape[1]} by {pixels.shape[0]} pixels")
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return to_channels(image, channels)


def to_pixels(image: "Image.Image") -> np.ndarray:
    """Returns the pixels of an RGB or gray image: uint8, shape `(h, w, c)`."""
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turns whatever Pillow raises on a bad file into an `ImageError`."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"it is not an image, or not one of {', '.join(_FORMATS)}") from error
    except Exception as error:  # of any type: its parsers trip over bad bytes in many ways
        raise ImageError(f"it is damaged: {error or repr(error)}") from error


def _to_8_bits(image: "Image.Image") -> "Image.Image":
    """Scales gray of more than 8 bits, so that white stays white."""
    from PIL import Image

    # Pillow has 16 bits as I;16, or as I of formats that have no more; PPM's it has scaled to them.
    deep = image.mode == "I" and image.format in ("PNG", "PPM")
    if not (deep or image.mode.startswith("I;16")):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise ImageError(f"its pixels are {kind} of unknown scale: save it with 8 or 16 bits")
    levels = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _on_white(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    drawing = image.convert("RGBA")
    ground = Image.new("RGBA", drawing.size, "white")
    return Image.alpha_composite(ground, drawing)
