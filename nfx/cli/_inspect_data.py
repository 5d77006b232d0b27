"""`nfx inspect data`."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nfx._show import format_bytes, plain_table
from nfx.cli._parse import parse
from nfx.cli._peek import peek
from nfx.cli._refuse import check_picture
from nfx.data import Survey, survey
from nfx.recipes import (
    contact_sheet,
    get_recipe,
    open_recipe_sources,
    Recipe,
    starting_recipe,
)


# What is listed on the screen; --json has all.
_LISTED = 10


@dataclasses.dataclass(frozen=True)
class InspectDataCommand:
    """Look at images before training on them.

    Reads and decodes every image: how many there are of each class, their sizes and formats, and
    which cannot be read. Draws a contact sheet of the first images that a run would train on,
    cropped and augmented as the options say, with their labels after mixing.

    Attributes:
        source: What `nfx train --data` takes: a folder, what `nfx convert` wrote, or "sample".
        sheet: Where to write the contact sheet, a PNG; empty for none.
        images: How many images it shows; an even number.
        limit: Look at so many images of each split, spread evenly; all by default.
        recipe: The recipe to start from; by default that of `nfx train`.
        hyperparameters: What to do with the images; options of the network change nothing here.
        json: Print JSON, with all counts and every image that cannot be read.
    """

    source: Annotated[str, tyro.conf.Positional]
    hyperparameters: Annotated[Recipe, tyro.conf.arg(name="")]
    sheet: str = "contact-sheet.png"
    images: int = 24
    limit: int | None = None
    recipe: str = ""
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and looks."""
    command = _parsed(arguments)
    recipe = dataclasses.replace(command.hyperparameters, data=command.source)
    if command.sheet:
        _check_sheet(command)
    sources = open_recipe_sources(recipe)
    console = Console(stderr=True)
    surveys = {}
    for split, source in sources.items():
        total = len(source) if command.limit is None else min(command.limit, len(source))
        with _bar(console) as bar:
            task = bar.add_task(f"Looking at {split} images", total=total)
            surveys[split] = survey(
                source,
                limit=command.limit,
                progress=lambda n, bar=bar, task=task: bar.advance(task, n),
            )
    if command.json:
        print(json.dumps({split: _record(each) for split, each in surveys.items()}, indent=1))
    else:
        _show(surveys)
    count = min(command.images, len(sources.train) // 2 * 2)  # images may be mixed in pairs
    if command.sheet and count:
        contact_sheet(recipe, sources, count=count).save(command.sheet)
        print(f"Contact sheet: {command.sheet}", file=sys.stderr if command.json else sys.stdout)
    return 1 if any(each.bad for each in surveys.values()) else 0


def _parsed(arguments: Sequence[str]) -> InspectDataCommand:
    """The command, its recipe's defaults those of `nfx train` on the same images."""
    given = peek(arguments, ["--recipe"], ["--data"])
    if given.data:
        raise ValueError("Name the images once: nfx inspect data DIR, without --data.")
    named = given.recipe

    def parse_from(recipe: str) -> InspectDataCommand:
        return parse(
            InspectDataCommand,
            "nfx inspect data",
            arguments,
            default=InspectDataCommand("", get_recipe(recipe)),
        )

    command = parse_from(named or "folder")
    if not command.source:
        raise ValueError("Look at which images? nfx inspect data DIR")
    usual = starting_recipe(command.source)
    return command if named or usual == "folder" else parse_from(usual)


def _check_sheet(command: InspectDataCommand) -> None:
    """Refuses what would be found out after all images are read."""
    if command.images < 2 or command.images % 2:
        raise ValueError(f"--images {command.images} must be even, and at least 2.")
    check_picture(command.sheet, "--sheet")


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)


def _record(found: Survey) -> dict[str, Any]:
    return {
        "images": found.images,
        "examined": found.examined,
        "classes": dict(zip(found.class_names, found.counts.tolist(), strict=True)),
        "sides": _sides(found),
        "stored_bytes": int(found.stored_bytes.sum()),
        "kinds": dict(found.kinds),
        "other_files": dict(found.other_files),
        "bad": [dataclasses.asdict(bad) for bad in found.bad],
    }


def _sides(found: Survey) -> dict[str, list[int]]:
    """Smallest, median and largest width and height."""
    if not len(found.sizes):
        return {}
    quantiles = np.quantile(found.sizes, [0, 0.5, 1], axis=0, method="nearest").astype(int)
    return {"width": quantiles[:, 0].tolist(), "height": quantiles[:, 1].tolist()}


def _show(surveys: dict[str, Survey]) -> None:
    console = Console()
    for split, found in surveys.items():
        of = "" if found.examined == found.images else f", of which {found.examined:,} looked at"
        sides = "; ".join(
            f"{name} {low} to {high}, median {middle}"
            for name, (low, middle, high) in _sides(found).items()
        )
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.kinds.items())
        size = f"{found.images:,} images{of}, {format_bytes(int(found.stored_bytes.sum()))}"
        console.print(f"[bold]{split}[/bold]: {size}. {sides}. {kinds}.", highlight=False)
        console.print(_classes(found))
        if found.other_files:
            others = ", ".join(f"{count:,} {kind}" for kind, count in found.other_files.items())
            console.print(
                f"Files that are taken for no images: {others}", highlight=False, markup=False
            )
        if found.bad:
            console.print(f"[bold red]{len(found.bad):,} cannot be used:[/bold red]")
        for bad in found.bad[:_LISTED]:
            console.print(f"  {bad.name}: {bad.reason}", highlight=False, markup=False)
        if len(found.bad) > _LISTED:
            console.print(
                f"  and {len(found.bad) - _LISTED:,} more: --json lists all", highlight=False
            )


def _classes(found: Survey) -> Table:
    """The largest and the smallest classes, as bars."""
    order = np.argsort(-found.counts, kind="stable")
    shown = order if len(order) <= 2 * _LISTED else [*order[:_LISTED], *order[-_LISTED:]]
    table = plain_table()
    table.add_column(f"{len(order):,} classes", no_wrap=True)
    table.add_column("images", justify="right")
    table.add_column("", no_wrap=True)
    most = max(int(found.counts.max(initial=0)), 1)
    for place, label in enumerate(shown):
        if len(shown) < len(order) and place == _LISTED:
            table.add_row("...", "", "")
        count = int(found.counts[label])
        table.add_row(
            escape(str(found.class_names[label])), f"{count:,}", "█" * round(30 * count / most)
        )
    return table
