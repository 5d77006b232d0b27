"""Models by name."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxtyping import PRNGKeyArray

from nfx._names import did_you_mean
from nfx.models._batch_norm_net import BatchNormNet
from nfx.models._batch_norm_variant import BatchNormVariant
from nfx.models._cards import ModelCard, official_card, timm_card
from nfx.models._nfnet import NFNet
from nfx.models._rows import BATCH_NORM_NETS, OFFICIAL, SMALL, TIMM
from nfx.models._variant import NFNetVariant


class ModelEntry(NamedTuple):
    """A model of the registry.

    Attributes:
        network: Its class.
        variant: What the class builds.
        card: What is published about it.
    """

    network: type[NFNet] | type[BatchNormNet]
    variant: NFNetVariant | BatchNormVariant
    card: ModelCard


# A new family adds its rows here; `create_model` does not change.
MODELS: Mapping[str, ModelEntry] = MappingProxyType(
    {
        **{
            name: ModelEntry(NFNet, variant, official_card(name, variant.test_size))
            for name, variant in OFFICIAL.items()
        },
        **{name: ModelEntry(NFNet, variant, ModelCard("nfx")) for name, variant in SMALL.items()},
        **{
            name: ModelEntry(NFNet, variant, timm_card(name.removeprefix("timm/")))
            for name, variant in TIMM.items()
        },
        **{
            name: ModelEntry(BatchNormNet, variant, ModelCard("batch norm", crop=0.875))
            for name, variant in BATCH_NORM_NETS.items()
        },
    }
)


def list_models(pattern: str | None = None) -> list[str]:
    """Returns the names of models, of those that match a pattern as `"nfnet_f?"`."""
    return [name for name in MODELS if pattern is None or fnmatch.fnmatchcase(name, pattern)]


def model_variant(name: str, **overrides: Any) -> Any:
    """Returns a model's row of its variant table, with fields replaced.

    Returns:
        A `NFNetVariant` or a `BatchNormVariant`.

    Raises:
        ValueError: If there is no such model or field, naming the nearest ones.
    """
    variant = _entry(name).variant
    fields = [field.name for field in dataclasses.fields(variant)]
    for override in overrides:
        if override not in fields:
            raise ValueError(
                f"{name!r} has no field {override!r}. {did_you_mean(override, fields)}"
            )
    return dataclasses.replace(variant, **overrides)


def is_batch_normalized(name: str) -> bool:
    """Whether a model normalizes by statistics of batches, and so has a state.

    Raises:
        ValueError: If there is no such model, naming the nearest ones.
    """
    return _entry(name).network is BatchNormNet


def model_card(name: str) -> ModelCard:
    """Returns what is published about a model beside its graph.

    Raises:
        ValueError: If there is no such model, naming the nearest ones.
    """
    return _entry(name).card


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    key: PRNGKeyArray,
    **overrides: Any,
) -> Any:
    """Builds a model with fresh parameters.

    Under `jax.eval_shape` it allocates nothing, for the largest model too.

    Args:
        name: One of `list_models()`.
        num_classes: Length of the logits.
        in_channels: Channels of the images.
        key: Randomness for the parameters.
        **overrides: Fields of the variant to replace: see `nfx.models.NFNetVariant` and
            `nfx.models.BatchNormVariant`.

    Returns:
        A `NFNet` or a `BatchNormNet`: a pytree whose every leaf is an array of parameters.

    Raises:
        ValueError: If the name or a field is unknown, or the fields contradict each other.
    """
    variant = model_variant(name, **overrides)
    if num_classes < 1 or in_channels < 1:
        raise ValueError(
            f"num_classes={num_classes} and in_channels={in_channels} must be positive."
        )
    return _entry(name).network(variant, num_classes=num_classes, in_channels=in_channels, key=key)


def _entry(name: str) -> ModelEntry:
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}. {did_you_mean(name, MODELS)}")
    return MODELS[name]
