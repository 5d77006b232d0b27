"""Recipes: as published, as text, as files.

`python -m tests.test_recipes` writes the golden files anew: who changes a recipe, changes a file.
"""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nfx.cli import main
from nfx.data import no_images, Splits
from nfx.models import model_variant
from nfx.optim import scaled_learning_rate
from nfx.recipes import (
    build_parts,
    read_recipe,
    Recipe,
    recipe_from_config,
    recipe_to_toml,
    RECIPES,
)


GOLDEN = Path(__file__).parent / "golden" / "recipes"
PUBLISHED = [name for name in RECIPES if name.endswith("-imagenet")]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_what_they_were(name):
    golden = (GOLDEN / f"{name}.toml").read_text()
    assert recipe_to_toml(RECIPES[name]) == golden, "if meant so: python -m tests.test_recipes"


def test_no_golden_recipe_is_left_behind():
    assert {path.stem for path in GOLDEN.iterdir()} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_files(name, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_to_toml(RECIPES[name]))
    assert read_recipe(path) == RECIPES[name]
    config = json.loads(json.dumps({"recipe": dataclasses.asdict(RECIPES[name])}))
    assert recipe_from_config(config) == RECIPES[name]


def test_nfnets_are_trained_as_published():
    recipe = RECIPES["nfnet_f0-imagenet"]
    assert recipe.steps == 112_602
    assert recipe.warmup_steps == pytest.approx(1563.9, abs=0.05)
    assert scaled_learning_rate(recipe.learning_rate, recipe.batch_size) == pytest.approx(1.6)
    levels = [RECIPES[f"nfnet_f{n}-imagenet"].randaugment_level for n in range(7)]
    assert levels == [5, 10, 10, 15, 15, 15, 15]
    assert (recipe.image_size, recipe.test_size, recipe.dropout) == (192, 256, 0.2)


def test_nf_regnets_end_at_a_rate_of_their_own():
    recipe, nothing = RECIPES["nf_regnet_b2-imagenet"], no_images([str(n) for n in range(1000)])
    observe = build_parts(recipe, Splits(nothing, nothing)).observe
    steps = (0, round(recipe.warmup_steps), recipe.steps)
    found = [observe({}, {}, jnp.asarray(step))["learning_rate"] for step in steps]
    np.testing.assert_allclose(found, [0, 0.4, 0.001], rtol=1e-3)
    assert recipe.weight_decay == pytest.approx(7e-5)
    assert recipe.augmentation.order.index("normalize") < recipe.augmentation.order.index("mix")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_the_sizes_of_their_models(name):
    recipe = RECIPES[name]
    variant = model_variant(recipe.model)
    assert (recipe.image_size, recipe.test_size) == (variant.train_size, variant.test_size)
    assert recipe.model == name.partition("-")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat = 1.0", "there is no 'learning_rat'. Did you mean 'learning_rate'"),
        ('steps = "many"', "steps = 'many' is not a whole number"),
        ("steps = true", "steps = True is not a whole number"),
        ("steps = 1.5", "steps = 1.5 is not a whole number"),
        ('color = "blue"', "color = 'blue' is not one of 'rgb', 'gray'"),
        ('clipping = "some"', "clipping = 'some' is not a number or 'none'"),
        ('augment_order = ["flip", "sharpen"]', "is not a list of one of 'flip'"),
        ("steps = 0", "steps=0 must be at least 1"),
        ('recipe = "nfnet_f9-imagenet"', "Unknown recipe 'nfnet_f9-imagenet'"),
        ("recipe = 1", "starts from 1, which is not a name"),
        ("momentum = 1.0", "momentum=1.0 must be in [0, 1). It is in"),
        ("final_learning_rate = 0.5", "final_learning_rate=0.5 must be at most the peak, 0.15"),
        ("steps = ", "is not TOML"),
        (None, "Cannot read the recipe"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r".") as error:
        read_recipe(path)
    assert message in str(error.value)


def test_files_change_the_recipe_that_they_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('recipe = "nfnet_f1-imagenet"\nlearning_rate = 1\nclipping = "none"\n')
    expected = dataclasses.replace(RECIPES["nfnet_f1-imagenet"], learning_rate=1.0, clipping=None)
    assert read_recipe(path) == expected
    path.write_text("steps = 7")
    assert read_recipe(path) == Recipe(steps=7)
    assert read_recipe(path, data="x") == dataclasses.replace(RECIPES["folder"], steps=7)
    path.write_text('data = "x"')
    assert read_recipe(path) == dataclasses.replace(RECIPES["folder"], data="x")


def test_numbers_may_be_of_numpy(tmp_path):
    """As in a sweep: `for rate in np.geomspace(0.1, 3, 8)`."""
    recipe = Recipe(learning_rate=np.float64(0.3))
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_to_toml(recipe))
    assert read_recipe(path) == recipe == Recipe(learning_rate=0.3)


@pytest.mark.parametrize("data", ["/d/\N{GRINNING FACE}", 'a "quoted" \\ name', "\x7f\t"])
def test_paths_survive_files(tmp_path, data):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_to_toml(Recipe(data=data)), encoding="utf-8")
    assert read_recipe(path).data == data


def test_recipes_are_listed_and_printed(capsys):
    assert main(["recipes"]) == 0
    assert "nf_regnet_b5-imagenet" in capsys.readouterr().out
    assert main(["recipes", "sample"]) == 0
    assert capsys.readouterr().out == recipe_to_toml(RECIPES["sample"])


@pytest.mark.slow
def test_a_dry_run_prints_the_recipe_and_what_it_costs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text('recipe = "folder"\nmodel = "nfnet_nano"\nimage_size = 16\n')
    assert main(["train", "--recipe-file", str(path), "--dry-run", "--batch-size", "8"]) == 0
    out = capsys.readouterr().out
    assert "batch_size = 8\n" in out
    assert 'model = "nfnet_nano"\n' in out
    assert "# 2,000 steps of 8: 16,000 images\n" in out
    assert "temporaries" in out
    assert not (tmp_path / "runs").exists()


def test_a_file_and_a_name_are_not_both_given(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text("steps = 7")
    assert main(["train", "--recipe-file", str(path), "--recipe", "sample"]) == 1
    assert 'write recipe = "NAME" into the file' in capsys.readouterr().err


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for file in GOLDEN.iterdir():
        file.unlink()
    for name, recipe in RECIPES.items():
        (GOLDEN / f"{name}.toml").write_text(recipe_to_toml(recipe))
