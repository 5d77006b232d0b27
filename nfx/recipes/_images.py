"""From a recipe to its images: sources, and what the host makes of them."""

from nfx.data import (
    AsStored,
    CentreView,
    Images,
    ImageTransform,
    open_sources,
    RandomCrop,
    SAMPLE_SHAPE,
    Source,
    Splits,
)
from nfx.models import model_card
from nfx.recipes._recipe import Recipe


def recipe_images(recipe: Recipe, sources: Splits[Source] | None = None) -> Splits[Images]:
    """Returns the images that a recipe trains on and is judged by.

    Args:
        recipe: The recipe.
        sources: Where to take them from instead of the recipe's data.

    Raises:
        ValueError: If the data is missing or not of a kind that nfx reads.
    """
    train, test = sources or open_recipe_sources(recipe)
    return Splits(
        Images(train, training_transform(recipe), recipe.bad_images),
        Images(test, evaluation_transform(recipe), recipe.bad_images),
    )


def open_recipe_sources(recipe: Recipe) -> Splits[Source]:
    """Opens what a recipe's data names: see `nfx.data.open_sources`.

    Raises:
        ValueError: If it names nothing, or not what nfx reads.
    """
    if not recipe.data:
        raise ValueError(
            "This recipe needs images: --data DIR, with train/CLASS/*.jpg and test/CLASS/*.jpg in "
            "it, or CLASS/*.jpg, or what `nfx convert` wrote."
        )
    size = recipe.image_size
    return open_sources(recipe.data, noise_shape=(size, size, recipe.channels))


def training_transform(recipe: Recipe) -> ImageTransform:
    """Returns what becomes of an image before the device augments it."""
    if _as_stored(recipe, recipe.image_size):
        return AsStored(SAMPLE_SHAPE)
    if recipe.crop_area == 1:
        return CentreView(recipe.image_size, recipe.channels, "timm", 1.0)
    return RandomCrop(
        recipe.image_size,
        recipe.channels,
        area=(recipe.crop_area, 1.0),
        decoder=recipe.decoder,
    )


def evaluation_transform(recipe: Recipe) -> ImageTransform:
    """Returns what becomes of an image in evaluation: what the card of the model says."""
    if _as_stored(recipe, recipe.resolved_test_size):
        return AsStored(SAMPLE_SHAPE)
    card = model_card(recipe.model)
    return CentreView(recipe.resolved_test_size, recipe.channels, card.view, card.crop)


def _as_stored(recipe: Recipe, size: int) -> bool:
    """Whether the sample needs neither a crop nor another size."""
    return (
        recipe.data == "sample"
        and recipe.crop_area == 1
        and (size, size, recipe.channels) == SAMPLE_SHAPE
    )
