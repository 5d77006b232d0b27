"""Models by name."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jaxtyping import PRNGKeyArray

from nfx.models._nfnet import NFNet
from nfx.models._rows import NFNETS
from nfx.models._variant import NFNetVariant


# A family adds its rows and, in `create_model`, nothing.
MODELS: Mapping[str, tuple[type[NFNet], NFNetVariant]] = MappingProxyType(
    {name: (NFNet, variant) for name, variant in NFNETS.items()}
)


def list_models(pattern: str | None = None) -> list[str]:
    """Returns the names of models, of those that match a pattern as `"nfnet_f?"`."""
    return [name for name in MODELS if pattern is None or fnmatch.fnmatchcase(name, pattern)]


def model_variant(name: str, **overrides: Any) -> NFNetVariant:
    """Returns a model's row of the variant table, with fields replaced.

    Raises:
        ValueError: If there is no such model or field, naming the nearest ones.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}. {_nearest(name, MODELS)}")
    _, variant = MODELS[name]
    fields = [field.name for field in dataclasses.fields(variant)]
    for override in overrides:
        if override not in fields:
            raise ValueError(f"{name!r} has no field {override!r}. {_nearest(override, fields)}")
    return dataclasses.replace(variant, **overrides)


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    key: PRNGKeyArray,
    **overrides: Any,
) -> NFNet:
    """Builds a model with fresh parameters.

    Under `jax.eval_shape` it allocates nothing, for the largest model too.

    Args:
        name: One of `list_models()`.
        num_classes: Length of the logits.
        in_channels: Channels of the images.
        key: Randomness for the parameters.
        **overrides: Fields of the variant to replace: see `nfx.models.NFNetVariant`.

    Returns:
        A pytree whose every leaf is an array of parameters.

    Raises:
        ValueError: If the name or a field is unknown, or the fields contradict each other.
    """
    variant = model_variant(name, **overrides)
    if num_classes < 1 or in_channels < 1:
        raise ValueError(
            f"num_classes={num_classes} and in_channels={in_channels} must be positive."
        )
    family, _ = MODELS[name]
    return family(variant, num_classes=num_classes, in_channels=in_channels, key=key)


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=3)
    return (
        f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Known: {', '.join(known)}."
    )
