"""`nfx inspect model`."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from nfx._checks import at_least
from nfx._show import plain_table
from nfx.analysis import (
    block_places,
    expected_signal,
    plot_signal,
    signal_propagation,
    SignalPropagation,
)
from nfx.cli._parse import parse
from nfx.cli._refuse import check_picture
from nfx.models import create_model, model_variant, NFNet


@dataclasses.dataclass(frozen=True)
class InspectModelCommand:
    """See how the signal goes through the depth of a network with fresh parameters.

    Prints, and draws, the mean and variance of its channels after every block, on images of
    noise, and beside them what the betas of a normalizer-free network are derived from.

    Attributes:
        name: A name that `nfx models` lists.
        output: Where to draw it: .png, .svg or .pdf; empty for no picture.
        image_size: Side of the images, in pixels; by default that of training.
        images: How many images.
        skip_gain: Of a normalizer-free network: the gain of every residual branch. The paper's
            networks start with closed branches, 0; what the variances will be when they open, 1
            shows.
        seed: Of the parameters and the images.
        json: Print JSON.
    """

    name: Annotated[str, tyro.conf.Positional]
    output: Annotated[str, tyro.conf.arg(metavar="FILE")] = "signal.png"
    image_size: int | None = None
    images: int = 8
    skip_gain: float | None = None
    seed: int = 0
    json: bool = False


_EXPECTED = """Expected is the ledger that the betas follow. It counts no padding with zeros, and no
pooling of shortcuts, which takes variance out of noise: networks that pool, as
the NFNets, fall far below it where a stage begins."""


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments, measures, prints and draws."""
    command = parse(InspectModelCommand, "nfx inspect model", arguments)
    at_least(1, images=command.images, image_size=command.image_size)
    if command.output:
        check_picture(command.output, "--output", (".png", ".svg", ".pdf"))
    model_key, image_key = jax.random.split(jax.random.key(command.seed))
    gain: dict[str, Any] = {} if command.skip_gain is None else {"skip_gain": command.skip_gain}
    model = jax.jit(lambda: create_model(command.name, key=model_key, **gain))()
    size = command.image_size or model_variant(command.name).train_size
    images = jax.random.normal(image_key, (command.images, size, size, 3))
    signal = jax.device_get(jax.jit(signal_propagation)(model, images))
    expected = np.asarray(expected_signal(model)) if isinstance(model, NFNet) else None
    places = block_places(model)
    if command.json:
        print(json.dumps(_record(command, size, places, signal, expected), indent=1))
    else:
        Console().print(_table(places, signal, expected))
        if expected is not None:
            print(_EXPECTED)
    if command.output:
        ledger = None if expected is None else {"expected": expected}
        title = f"{command.name}: {command.images} images of noise, {size} pixels"
        plot_signal({command.name: signal}, places, expected=ledger, title=title).savefig(
            command.output, dpi=120
        )
        print(f"Picture: {command.output}", file=sys.stderr if command.json else sys.stdout)
    return 0


def _record(
    command: InspectModelCommand,
    size: int,
    places: Sequence[str],
    signal: SignalPropagation,
    expected: np.ndarray | None,
) -> dict[str, Any]:
    return {
        "model": command.name,
        "images": command.images,
        "image_size": size,
        "places": list(places),
        **{field: values.tolist() for field, values in signal._asdict().items()},
        "expected_variance": None if expected is None else expected.tolist(),
    }


def _table(places: Sequence[str], signal: SignalPropagation, expected: np.ndarray | None) -> Table:
    """One row a place; the stem has no branch."""
    table = plain_table()
    columns = {
        "squared mean": signal.squared_mean,
        "variance": signal.variance,
        "expected": expected,
        "of the branch": np.concatenate([[np.nan], signal.residual_variance]),
    }
    shown = {name: values for name, values in columns.items() if values is not None}
    table.add_column("place", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for row, place in enumerate(places):
        cells = (
            "" if np.isnan(value := values[row]) else f"{value:.4g}" for values in shown.values()
        )
        table.add_row(place, *cells)
    return table
