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
from nfx.recipes._classifier import Classifier, load_classifier
from nfx.serving import name_images, Prediction
from nfx.sharding import batch_shards, batch_spec, place_batch, read_mesh
from nfx.train import shard_model


def predict(  # noqa: PLR0913 (one for each thing that may differ)
    what: str | Path,
    images: Sequence[str | Path],
    *,
    model: str | None = None,
    top: int = 5,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    batch_size: int = 32,
    offline: bool = False,
    mesh: str = "data=all",
) -> Iterator[Prediction]:
    """Yields the most probable classes of images.

    For an artifact, see `nfx.serving.predict_images`.

    Args:
        what: A run directory, whose averaged parameters are used, or weights: see
            `nfx.load_pretrained`.
        images: Files, and folders with all the images below them.
        model: The model's name, for a file of weights.
        top: How many classes to name.
        class_names: Names of the classes, for weights that do not come with them.
        image_size: Side of the square that images are brought to; by default what the run was
            trained on, or the model's test size.
        batch_size: Images at a time.
        offline: Whether to look for weights in the cache only.
        mesh: Devices to use, as "data=4,fsdp=2".

    Raises:
        ValueError: If something is missing or does not fit, or a file is not an image.
    """
    at_least(1, top=top, batch_size=batch_size, image_size=image_size)
    files = list_images(images)
    classifier = load_classifier(
        what, model=model, class_names=class_names, image_size=image_size, offline=offline
    )

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
