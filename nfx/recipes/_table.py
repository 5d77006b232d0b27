"""Recipes by name."""

from collections.abc import Mapping
from types import MappingProxyType

from nfx._names import did_you_mean
from nfx.recipes._published import PUBLISHED
from nfx.recipes._recipe import Recipe


# Of a folder of one's own images, from the weights of ImageNet. Regularization is that of the
# paper's fine-tuning; what is short, small and gentle for few images is not published: the rate,
# in proportion to a smaller batch, the steps, the average, and crops that keep a quarter.
_FINE_TUNING = Recipe(
    data="",
    model="timm/dm_nfnet_f0",
    init="timm/dm_nfnet_f0.dm_in1k",
    image_size=192,
    test_size=256,
    color="rgb",
    crop_area=0.25,
    steps=1000,
    batch_size=64,
    learning_rate=0.1,
    warmup_steps=100.0,
    weight_decay=1e-5,
    clipping=0.01,
    ema=0.99,
    dropout=0.25,
    stochastic_depth=0.1,
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({
    "sample": Recipe(),
    "folder": Recipe(data="", image_size=64, color="rgb", crop_area=0.25),
    "finetune": _FINE_TUNING,
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
