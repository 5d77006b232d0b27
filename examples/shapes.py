"""Writes a folder of pictures to try `nfx train --data` on, without any of one's own.

    python examples/shapes.py runs/shapes --images 200
    nfx inspect data runs/shapes
    nfx train --data runs/shapes

Four classes (circles, squares, triangles, stars), each half photos and half drawings: JPEGs of
several sizes, upright and turned by their EXIF header, gray ones, PNGs with a transparent ground
and GIFs with a palette. Needs `pip install 'nfx[train]'`.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


CORNERS = {"circle": 60, "square": 4, "triangle": 3, "star": 5}
SIZES = ((320, 240), (240, 320), (300, 300), (500, 375))


def outline(name, rng, size):
    """The corners of a shape of random size and angle, somewhere in the picture."""
    radius = rng.uniform(0.18, 0.4) * min(size)
    centre = [rng.uniform(0.9 * radius, side - 0.9 * radius) for side in size]
    count = CORNERS[name] * (2 if name == "star" else 1)
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count
    radii = np.where(np.arange(count) % 2 & (name == "star"), 0.45 * radius, radius)
    return [
        (float(centre[0] + r * np.cos(a)), float(centre[1] + r * np.sin(a)))
        for r, a in zip(radii, angles, strict=True)
    ]


def texture(rng, size):
    """Noise whose spectrum falls as that of photos does."""
    width, height = size
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    falloff = np.maximum(frequencies, 1 / max(size)) ** -1.4
    noise = rng.standard_normal((3, *falloff.shape)) * np.exp(
        2j * np.pi * rng.random(falloff.shape)
    )
    pixels = np.fft.irfft2(noise * falloff, s=(height, width)).transpose(1, 2, 0)
    pixels = rng.uniform(60, 190, 3) + 40 * pixels / pixels.std()
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def photo(name, rng):
    """A textured shape on a textured ground."""
    size = SIZES[rng.integers(len(SIZES))]
    picture, surface = texture(rng, size), texture(rng, size)
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(outline(name, rng, size), fill=255)
    picture.paste(surface, mask=mask)
    return picture


def drawing(name, rng):
    """A line around a shape, on a transparent ground."""
    picture = Image.new("RGBA", (256, 256))
    points = outline(name, rng, picture.size)
    color = tuple(map(int, rng.integers(0, 160, 3)))
    ImageDraw.Draw(picture).line([*points, *points[:2]], color, int(rng.integers(3, 9)), "curve")
    return picture


def write(name, number, rng, folder):
    """Writes one picture, in one of the ways that pictures are stored."""
    if number % 2:
        picture = drawing(name, rng)
        if number % 4 == 1:
            return picture.save(folder / f"{number:04}.png")
        return picture.quantize(16).save(folder / f"{number:04}.gif")
    picture, exif = photo(name, rng), Image.Exif()
    if number % 8 == 2:  # held the other way, as cameras are
        picture, exif[0x0112] = picture.transpose(Image.Transpose.ROTATE_90), 6
    if number % 8 == 4:
        picture = picture.convert("L")
    return picture.save(folder / f"{number:04}.jpg", quality=90, exif=exif)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200, help="of each class")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for name in CORNERS:
        folder = options.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(options.images):
            write(name, number, rng, folder)


if __name__ == "__main__":
    main()
