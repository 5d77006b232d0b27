"""Recipes by name."""

from collections.abc import Mapping
from types import MappingProxyType

from nfx._names import did_you_mean
from nfx.recipes._published import PUBLISHED
from nfx.recipes._recipe import Recipe


RECIPES: Mapping[str, Recipe] = MappingProxyType({
    "sample": Recipe(),
    "folder": Recipe(data="", image_size=64, color="rgb", crop_area=0.25),
    **PUBLISHED,
})  # fmt: skip


def get_recipe(name: str) -> Recipe:
    """Returns a recipe by name.

    Raises:
        ValueError: If there is none, naming the nearest.
    """
    if name not in RECIPES:
        raise ValueError(f"Unknown recipe {name!r}. {did_you_mean(name, RECIPES)}")
    return RECIPES[name]


def starting_recipe(data: str) -> str:
    """Returns the name of the recipe to start from, if none is named."""
    return "sample" if data in ("", "sample") else "folder"
