"""What a trained network sees in images."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array

from nfx.aot import pixels_to_logits
from nfx.data import list_images
from nfx.recipes._classifier import load_classifier
from nfx.serving import check_positive, name_images, Prediction


def predict(
    what: str | Path,
    images: Sequence[str | Path],
    *,
    model: str | None = None,
    top: int = 5,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    batch_size: int = 32,
    offline: bool = False,
) -> Iterator[Prediction]:
    """Yields the most probable classes of images.

    For an artefact, see `nfx.serving.predict_images`.

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

    Raises:
        ValueError: If something is missing or does not fit, or a file is not an image.
    """
    check_positive(top=top, batch_size=batch_size, image_size=image_size)
    files = list_images(images)
    classifier = load_classifier(
        what, model=model, class_names=class_names, image_size=image_size, offline=offline
    )

    @jax.jit
    def run(model: object, statistics: object, pixels: Array) -> Array:
        return pixels_to_logits(model, statistics, pixels, classifier.images)

    def logits(pixels: np.ndarray) -> Array:
        return run(classifier.model, classifier.statistics, pixels)

    return name_images(
        files, classifier.images, classifier.class_names, logits, top=top, batch_size=batch_size
    )
