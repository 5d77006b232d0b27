"""What a network computes on its way to the logits, and what it takes."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray


class Features(NamedTuple):
    """The feature maps of one image, or of a batch-normalized network's batch.

    What is not used is not computed under `jax.jit`.

    Attributes:
        stem: Output of the stem.
        stages: Output of each stage.
        final: The activated map that is pooled.
        pooled: Its mean over the image, before dropout and the classifier.
        logits: Scores of the classes.
    """

    stem: Float[Array, "*n h w c"]
    stages: tuple[Float[Array, "*n _ _ _"], ...]
    final: Float[Array, "*n _ _ _"]
    pooled: Float[Array, "*n features"]
    logits: Float[Array, "*n classes"]


class FeatureInfo(NamedTuple):
    """What a model declares of one of its feature maps.

    Attributes:
        name: `"stem"`, `"stages/0"` and so on, `"final"`.
        channels: Its channels.
        stride: Pixels of the image to one of the map. Odd sizes round up at each halving.
    """

    name: str
    channels: int
    stride: int


def describe_features(
    stem: tuple[int, int], stages: Sequence[tuple[int, int]], final_channels: int
) -> tuple[FeatureInfo, ...]:
    """Declares the feature maps of a network.

    Args:
        stem: Channels and stride of the stem.
        stages: Channels and stride of each stage.
        final_channels: Channels of the last map.
    """
    maps = [FeatureInfo("stem", *stem)]
    for index, (channels, stride) in enumerate(stages):
        maps.append(FeatureInfo(f"stages/{index}", channels, maps[-1].stride * stride))
    return (*maps, FeatureInfo("final", final_channels, maps[-1].stride))


def split_or_none(key: PRNGKeyArray | None, counts: Sequence[int]) -> list[Key[Array, " _"] | None]:
    """Returns as many keys as are asked for in each place, or None where there is no key."""
    if key is None:
        return [None] * len(counts)
    keys = jax.random.split(key, sum(counts))
    return [keys[sum(counts[:i]) : sum(counts[: i + 1])] for i in range(len(counts))]


def check_image(image: jax.Array | jax.ShapeDtypeStruct, channels: int) -> None:
    """Raises a `ValueError` if `image` is not one floating-point image with these channels."""
    expected = f"one floating-point image of shape (height, width, {channels})"
    if image.ndim != 3:
        hint = " For a batch: jax.vmap(model)(images)." if image.ndim == 4 else ""
        raise ValueError(f"The model takes {expected}; got shape {image.shape}.{hint}")
    if image.shape[-1] != channels:
        raise ValueError(
            f"The model takes {expected}; got shape {image.shape}. Channels come last; for "
            f"{image.shape[-1]} of them: create_model(..., in_channels={image.shape[-1]}) or "
            f"nfx.graph.adapt_input_channels(model, {image.shape[-1]})."
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"The model takes {expected}; got dtype {image.dtype}. Convert and normalise first: "
            "nfx.augment.normalize(image, mean, std)."
        )
