"""Stands in for `fold_weight_standardization`."""

from typing import TypeVar

from jaxtyping import PyTree


Model = TypeVar("Model", bound=PyTree)


def fold_weight_standardization(model: Model) -> Model:
    """Returns the model as it is."""
    return model
