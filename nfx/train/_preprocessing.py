"""What happens to a batch before the network, on the devices."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt8

from nfx.augment import augment_batch, Augmentation, example_keys
from nfx.train._losses import one_hot


class Preprocessing(NamedTuple):
    """What happens to a batch before the network, in float32.

    Attributes:
        mean: Mean of the pixels, one a channel or one for all, on a scale of 0 to 1.
        std: Their standard deviation.
        augmentation: What happens to training images.
        label_smoothing: Share of a label that is spread over all classes.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    label_smoothing: float = 0.1


class AugmentedExamples(NamedTuple):
    """What training makes of a batch before the network.

    Attributes:
        images: Normalized, float32.
        targets: A distribution over classes for each image, without smoothing.
        keys: Of the network's randomness, one an image.
    """

    images: Float[Array, "n h w c"]
    targets: Float[Array, "n classes"]
    keys: Key[Array, " n"]


def augment_examples(
    preprocessing: Preprocessing,
    images: UInt8[Array, "n h w c"] | Float[Array, "n h w c"],
    labels: Int[Array, " n"],
    key: PRNGKeyArray,
    step: Int[Array, ""] | int,
    indices: Int[Array, " n"],
    num_classes: int,
) -> AugmentedExamples:
    """Augments and normalizes examples as a step of training does.

    Args:
        preprocessing: What to do.
        images: Pixels on a scale of 0 to 255.
        labels: Their classes.
        key: The run's key.
        step: The global step.
        indices: Where the examples stand in the global batch.
        num_classes: How many classes there are.
    """
    augment_keys, model_keys = jax.vmap(jax.random.split, out_axes=1)(
        example_keys(key, step, indices)
    )
    images, targets = augment_batch(
        preprocessing.augmentation,
        augment_keys,
        indices,
        images,
        one_hot(labels, num_classes),
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    return AugmentedExamples(images, targets, model_keys)
