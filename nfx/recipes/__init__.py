"""Recipes, and running them."""

from nfx.recipes._build import build_parts as build_parts, Parts as Parts
from nfx.recipes._checkpoints import (
    average_checkpoints as average_checkpoints,
    AverageResult as AverageResult,
    damaged_checkpoints as damaged_checkpoints,
    list_checkpoints as list_checkpoints,
    Parameters as Parameters,
    SavedCheckpoint as SavedCheckpoint,
    verify_checkpoints as verify_checkpoints,
)
from nfx.recipes._classifier import (
    Classifier as Classifier,
    load_classifier as load_classifier,
    random_classifier as random_classifier,
    save_classifier as save_classifier,
)
from nfx.recipes._compile import (
    compile_model as compile_model,
    compile_recipe as compile_recipe,
    CompileOptions as CompileOptions,
    plan_model as plan_model,
)
from nfx.recipes._contact_sheet import contact_sheet as contact_sheet
from nfx.recipes._evaluate_classifier import evaluate_classifier as evaluate_classifier
from nfx.recipes._evaluation import evaluate as evaluate, RunEvaluation as RunEvaluation
from nfx.recipes._export import export as export
from nfx.recipes._feed import OnSkip as OnSkip
from nfx.recipes._images import open_recipe_sources as open_recipe_sources
from nfx.recipes._options import (
    options_from_config as options_from_config,
    RunOptions as RunOptions,
)
from nfx.recipes._predict import predict as predict
from nfx.recipes._prune import (
    prunable_checkpoints as prunable_checkpoints,
    prune_checkpoints as prune_checkpoints,
    Pruning as Pruning,
)
from nfx.recipes._recipe import Recipe as Recipe, recipe_from_config as recipe_from_config
from nfx.recipes._report import report as report
from nfx.recipes._run import train as train
from nfx.recipes._saved import find_run as find_run, SavedRun as SavedRun
from nfx.recipes._table import (
    get_recipe as get_recipe,
    RECIPES as RECIPES,
    starting_recipe as starting_recipe,
)
from nfx.recipes._toml import read_recipe as read_recipe, recipe_to_toml as recipe_to_toml
