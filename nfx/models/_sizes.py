"""Sizes and costs of the models, as measured on their graphs."""

import csv
import functools as ft
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import NamedTuple


class ModelSize(NamedTuple):
    """Of a model with 1000 classes, on three channels.

    Attributes:
        parameters: How many numbers its leaves hold.
        train_macs: Multiply-accumulates on one image at the training size, in inference.
        test_macs: The same at the test size.
    """

    parameters: int
    train_macs: int
    test_macs: int


@ft.cache
def model_sizes() -> Mapping[str, ModelSize]:
    """Returns the size of each model by name.

    They are read from a table, because to count on all the graphs takes a minute; a test
    counts them (see `nfx.aot.model_macs`) and compares.
    """
    with (resources.files("nfx.models") / "sizes.csv").open() as file:
        return MappingProxyType(
            {
                row.pop("name"): ModelSize(**{field: int(value) for field, value in row.items()})
                for row in csv.DictReader(file)
            }
        )
