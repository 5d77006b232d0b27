"""Images and the files that hold them, made for tests."""

import io

import numpy as np
from PIL import Image


def photo(seed, height, width):
    """Pixels as a camera's: smooth light, things with edges, and noise of several sizes."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [
        60 * np.sin(columns / width * rng.uniform(2, 9) + channel)
        + 50 * np.cos(rows / height * rng.uniform(2, 9))
        for channel in range(3)
    ]
    pixels = 128 + np.stack(waves, axis=-1)
    for _ in range(30):
        row, column, radius = rng.uniform(0, 1, 3) * (height, width, 0.2 * height)
        inside = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        pixels[inside] = 0.3 * pixels[inside] + 0.7 * rng.uniform(0, 255, 3)
    for grain, strength in ((1, 9), (2, 9), (8, 12)):
        shape = (-(-height // grain), -(-width // grain), 3)
        noise = rng.normal(0, strength, shape).repeat(grain, 0).repeat(grain, 1)
        pixels += noise[:height, :width]
    return pixels.clip(0, 255).astype(np.uint8)


def noise(seed, height, width, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def encode(image, form, **options):
    """A file's bytes, of Pillow's image or of pixels."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[:, :, 0] if image.shape[2:] == (1,) else image)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def oriented(upright, orientation, form, **options):
    """A file whose pixels are stored as a camera held otherwise stores them, and says so."""
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(np.ascontiguousarray(stored), form, exif=exif, **options)


def bad_files():
    """Files that cannot be used, and what is said of each."""
    pixels = noise(0, 40, 50)
    whole = {
        "jpeg": encode(pixels, "JPEG"),
        "progressive": encode(pixels, "JPEG", progressive=True),
        "png": encode(pixels, "PNG"),
        "webp": encode(pixels, "WEBP"),
        "gif": encode(pixels, "GIF"),
        "bmp": encode(pixels, "BMP"),
        "tiff": encode(pixels, "TIFF"),
    }
    floats = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    integers = np.arange(12, dtype=np.int32).reshape(3, 4)
    return {
        **{f"half a {name}": (data[: len(data) // 2], "damaged") for name, data in whole.items()},
        **{f"start of a {name}": (data[:20], "damaged|not an im") for name, data in whole.items()},
        "flipped bits": (_flip(whole["png"], 400), "damaged"),
        "nothing": (b"", "it is empty"),
        "text": (b"not an image", "it is not an image"),
        "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is not an image"),
        "no pixels": (b"P5 0 1 255\n", "it is not an image"),
        "floats": (encode(Image.fromarray(floats), "TIFF"), "floats of unknown scale"),
        "integers": (encode(Image.fromarray(integers), "TIFF"), "32-bit integers of unknown"),
    }


def _flip(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def decibels(found, expected):
    """Peak signal-to-noise ratio of two images of 8 bits."""
    error = np.mean((found.astype(float) - expected.astype(float)) ** 2)
    return 10 * np.log10(255**2 / error) if error else np.inf
