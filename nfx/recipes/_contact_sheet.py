"""A picture of what a network is trained on: augmented images with their mixed labels."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from nfx.data import Source, Splits, training_batches
from nfx.recipes._build import build_parts, Parts
from nfx.recipes._recipe import Recipe
from nfx.train import augment_examples


if TYPE_CHECKING:
    from PIL import Image


_MARGIN = 8
_LINE = 15  # pixels of a line of text
_SMALLEST_TILE, _LARGEST_TILE = 112, 256


def contact_sheet(
    recipe: Recipe,
    sources: Splits[Source] | None = None,
    *,
    count: int = 24,
    columns: int = 6,
) -> "Image.Image":
    """Draws the first images that a run of the recipe trains on, to the pixel, and their labels.

    Args:
        recipe: The recipe.
        sources: Images to take instead of the recipe's.
        count: How many; even, as images may be mixed in pairs.
        columns: How many side by side.

    Raises:
        ValueError: If there are not so many images, or the data is missing.
        BadImageError: If one of them cannot be used and is not to be skipped.
    """
    if count < 2 or count % 2 or columns < 1:
        raise ValueError(f"count={count}, columns={columns}: an even number, and at least 1.")
    parts = build_parts(recipe, sources)
    images, targets = _augmented(recipe, parts, count)
    captions = [_caption(target, parts.images.train.class_names) for target in targets]
    return _arrange([_tile(image) for image in images], captions, columns)


def _augmented(recipe: Recipe, parts: Parts, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images on a scale of 0 to 1, and targets without smoothing; of as many steps as it takes."""
    size = min(count, recipe.batch_size)
    batches = training_batches(parts.images.train, size, seed=recipe.seed)
    classes = len(parts.images.train.class_names)

    @jax.jit
    def augment(
        images: jax.Array, labels: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        examples = augment_examples(
            parts.preprocessing, images, labels, parts.key, step, jnp.arange(size), classes
        )
        mean, std = (jnp.asarray(x) for x in parts.preprocessing[:2])
        return examples.images * std + mean, examples.targets

    steps = [augment(*next(batches), jnp.asarray(step)) for step in range(-(-count // size))]
    images, targets = (np.concatenate(arrays)[:count] for arrays in zip(*steps, strict=True))
    return images, targets


def _caption(target: np.ndarray, class_names: Sequence[str]) -> str:
    """The classes of a target, the largest share first."""
    order = np.argsort(-target, kind="stable")[:2]
    labels = [int(label) for label in order if target[label] >= 0.005]
    if len(labels) == 1:
        return class_names[labels[0]]
    return "\n".join(f"{target[label]:.0%} {class_names[label]}" for label in labels)


def picture_of(pixels: np.ndarray) -> "Image.Image":
    """Makes a picture of an image on a scale of 0 to 255, with one or three channels last."""
    from PIL import Image

    rounded = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
    return Image.fromarray(rounded[..., 0] if rounded.shape[-1] == 1 else rounded)


def _tile(image: np.ndarray) -> "Image.Image":
    from PIL import Image

    picture = picture_of(255 * image).convert("RGB")
    if picture.width < _SMALLEST_TILE:  # by a whole number, so that pixels stay squares
        scale = -(-_SMALLEST_TILE // picture.width)
        picture = picture.resize(
            (scale * picture.width, scale * picture.height), Image.Resampling.NEAREST
        )
    picture.thumbnail((_LARGEST_TILE, _LARGEST_TILE))
    return picture


def _arrange(
    tiles: Sequence["Image.Image"], captions: Sequence[str], columns: int
) -> "Image.Image":
    from PIL import Image, ImageDraw, ImageFont

    width, height = tiles[0].size
    font = ImageFont.load_default(size=12)
    rows = -(-len(tiles) // columns)
    across, down = width + _MARGIN, height + 2 * _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * across + _MARGIN, rows * down + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = number % columns * across + _MARGIN, number // columns * down + _MARGIN
        sheet.paste(tile, (left, top))
        lines = [
            textwrap.shorten(line, width // 6, placeholder="…") for line in caption.split("\n")
        ]
        draw.multiline_text((left, top + height + 2), "\n".join(lines), "black", font, spacing=2)
    return sheet
