"""Recipes, and running them."""

from nfx.recipes._build import Parts as Parts, build_parts as build_parts
from nfx.recipes._evaluation import RunEvaluation as RunEvaluation, evaluate as evaluate
from nfx.recipes._recipe import (
    RECIPES as RECIPES,
    Recipe as Recipe,
    get_recipe as get_recipe,
    recipe_from_config as recipe_from_config,
)
from nfx.recipes._run import RunOptions as RunOptions, train as train
