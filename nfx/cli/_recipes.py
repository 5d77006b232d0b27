"""`nfx recipes`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from nfx._show import plain_table
from nfx.cli._parse import parse
from nfx.recipes import get_recipe, recipe_to_toml, RECIPES


@dataclasses.dataclass(frozen=True)
class RecipesCommand:
    """List the recipes that `nfx train --recipe` starts from, or print one.

    `nfx recipes NAME > FILE.toml` prints all its fields, to be changed and trained by
    `nfx train --recipe-file FILE.toml`.

    Attributes:
        name: Which to print as TOML; without it all are listed.
    """

    name: Annotated[str, tyro.conf.Positional] = ""


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and prints."""
    command = parse(RecipesCommand, "nfx recipes", arguments)
    if command.name:
        print(recipe_to_toml(get_recipe(command.name)), end="")
    else:
        Console().print(_table())
    return 0


def _table() -> Table:
    table = plain_table()
    table.add_column("recipe", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for column in ("steps", "batch", "train px", "test px"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, recipe in RECIPES.items():
        numbers = (recipe.steps, recipe.batch_size, recipe.image_size, recipe.resolved_test_size)
        table.add_row(name, recipe.model, *(f"{number:,}" for number in numbers))
    return table
