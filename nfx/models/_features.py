"""What a network computes on its way to the logits, and what it takes."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


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


def check_images(images: Array, channels: int, *, batched: bool) -> None:
    """Raises a `ValueError` if `images` are not what a model takes.

    Args:
        images: One image, or a batch.
        channels: Their channels.
        batched: Whether the model takes a batch.
    """
    shape = f"(n, height, width, {channels})" if batched else f"(height, width, {channels})"
    kind = "floating-point images" if batched else "one floating-point image"
    expected = f"The model takes {kind} of shape {shape}; got"
    if images.ndim != (4 if batched else 3):
        hint = " For a batch: jax.vmap(model)(images)." if images.ndim == 4 else ""
        raise ValueError(f"{expected} shape {images.shape}.{hint}")
    if (found := images.shape[-1]) != channels:
        adapt = f" or nfx.graph.adapt_input_channels(model, {found})" if channels == 3 else ""
        raise ValueError(
            f"{expected} shape {images.shape}. Channels come last; for {found} of them: "
            f"create_model(..., in_channels={found}){adapt}."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"{expected} dtype {images.dtype}. Convert and normalize first: "
            "nfx.augment.normalize(images, mean, std)."
        )
