"""Pictures that are about as hard to decode as photos: 1/f noise, shapes and edges."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def photo(seed, size=(500, 375)):
    """A picture whose spectrum falls as that of photos does, with a few shapes on it."""
    rng = np.random.default_rng(seed)
    width, height = size
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    falloff = 1 / np.maximum(frequencies, 1 / max(size)) ** 1.4
    spectrum = rng.standard_normal((3, *falloff.shape)) + 1j * rng.standard_normal(
        (3, *falloff.shape)
    )
    spectrum[1:] = 0.9 * spectrum[:1] + 0.45 * spectrum[1:]  # channels go together
    noise = np.fft.irfft2(spectrum * falloff, s=(height, width)).transpose(1, 2, 0)
    pixels = 128 + 52 * (noise - noise.mean()) / noise.std()
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(rng.integers(2, 6)):
        left, top = rng.integers(0, width), rng.integers(0, height)
        corners = (left, top, left + rng.integers(20, 200), top + rng.integers(20, 200))
        shape = (draw.ellipse, draw.rectangle)[rng.integers(2)]
        shape(tuple(map(int, corners)), fill=(*map(int, rng.integers(0, 256, 3)), 180))
    return image


def write_photos(folder, count, classes=10):
    """Writes JPEGs of ImageNet's usual size and quality as `train/CLASS/` and `val/CLASS/`."""
    for index in range(count):
        split = "val" if index % 10 == 9 else "train"
        path = Path(folder) / split / f"class{index // 10 % classes}" / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(index).save(path, quality=90)
    return Path(folder)
