"""What a trained network sees in images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, PyTree

from nfx._checks import at_least
from nfx.aot import pixels_to_logits
from nfx.data import list_images
from nfx.recipes._classifier import Classifier
from nfx.serving import name_images, Prediction
from nfx.sharding import batch_shards, batch_spec, place_batch, read_mesh
from nfx.train import shard_model


def predict(
    classifier: Classifier,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    batch_size: int = 32,
    mesh: str = "data=all",
) -> Iterator[Prediction]:
    """Yields the most probable classes of images.

    For an artifact, see `nfx.serving.predict_images`.

    Args:
        classifier: See `load_classifier`.
        images: Files, and folders with all the images below them.
        top: How many classes to name.
        batch_size: Images at a time.
        mesh: Devices to use, as "data=4,fsdp=2".

    Raises:
        ValueError: If a number is out of range, or a file is missing.
    """
    at_least(1, top=top, batch_size=batch_size)
    files = list_images(images)
    logits = logits_on(classifier, read_mesh(mesh))
    return name_images(
        files, classifier.images, classifier.class_names, logits, top=top, batch_size=batch_size
    )


def logits_on(classifier: Classifier, mesh: Mesh) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what computes the logits of a batch of any size, split over a mesh."""
    placed, split = classifier.on(mesh), batch_spec(mesh)

    def predict(model: PyTree, statistics: PyTree, pixels: Array) -> Array:
        return pixels_to_logits(model, statistics, pixels, classifier.images)

    run = jax.jit(shard_model(predict, mesh, in_specs=(P(), split), out_specs=split))

    def logits(pixels: np.ndarray) -> np.ndarray:
        padding = [(0, -len(pixels) % batch_shards(mesh)), (0, 0), (0, 0), (0, 0)]
        batch = place_batch(np.pad(pixels, padding), mesh)
        return np.asarray(run(placed.model, placed.statistics, batch))[: len(pixels)]

    return logits
