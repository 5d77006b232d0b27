"""The most probable classes of images, by whatever computes logits."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nfx._checks import at_least
from nfx.data import CentreView, ImageError, list_images
from nfx.serving._artifact import Artifact
from nfx.serving._manifest import ImageFormat


class ClassScore(NamedTuple):
    """A class and its share of the softmax.

    Attributes:
        label: Its number.
        name: Its name, or its number where no names are known.
        probability: From 0 to 1.
    """

    label: int
    name: str
    probability: float


class Prediction(NamedTuple):
    """What is seen in an image.

    Attributes:
        file: Its file.
        classes: The most probable classes, in order; none if the file is not an image.
        problem: Why it is not, or "".
    """

    file: Path
    classes: tuple[ClassScore, ...]
    problem: str = ""


def predict_images(
    artifact: Artifact, images: Sequence[str | Path], *, top: int = 5, batch_size: int = 32
) -> Iterator[Prediction]:
    """Yields the most probable classes of images, by an artifact.

    Args:
        artifact: The classifier.
        images: Files, and folders with all the images below them.
        top: How many classes to name.
        batch_size: Images at a time, if the artifact takes any number; otherwise its own.

    Raises:
        ValueError: If there are no images, or a number is not positive.
    """
    manifest = artifact.manifest
    size = batch_size if manifest.batch_size == "symbolic" else manifest.batch_size
    at_least(1, top=top, batch_size=batch_size)
    files = list_images(images)
    return name_images(
        files, manifest.images, manifest.class_names, artifact.logits, top=top, batch_size=size
    )


def name_images(
    files: Sequence[Path],
    images: ImageFormat,
    class_names: Sequence[str],
    logits: Callable[[np.ndarray], Any],
    *,
    top: int,
    batch_size: int,
) -> Iterator[Prediction]:
    """Yields the most probable classes of image files, in their order, as they are computed.

    Args:
        files: The files.
        images: What to make of them. Where its view keeps fractions, pixels are rounded, and cut
            off at 0 and 255: classifiers take bytes.
        class_names: Names of the classes.
        logits: From a batch of such images, always of the same size, to logits.
        top: How many classes to name, if there are as many.
        batch_size: Images at a time.

    Raises:
        ValueError: While iterating, if there is no such view.
    """
    view = centre_view(images)
    size = min(batch_size, len(files))
    for start in range(0, len(files), size):
        chosen = files[start : start + size]
        batch, problems = np.zeros((size, *images.shape), np.uint8), []
        for row, file in zip(batch, chosen, strict=False):
            problems.append(_look(file, view, row))
        scores = np.asarray(logits(batch), np.float32)[: len(chosen)]
        for file, probabilities, problem in zip(chosen, _softmax(scores), problems, strict=True):
            best = _best(probabilities, class_names, top)
            yield Prediction(file, () if problem else best, problem)


def _best(
    probabilities: np.ndarray, class_names: Sequence[str], top: int
) -> tuple[ClassScore, ...]:
    labels = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(
        ClassScore(int(label), str(class_names[label]), float(probabilities[label]))
        for label in labels
    )


def centre_view(images: ImageFormat) -> CentreView:
    """Returns what makes images of a format of files, by the rule and the crop that it names."""
    return CentreView(images.size, images.channels, images.view, images.crop)


def _look(file: Path, view: CentreView, pixels: np.ndarray) -> str:
    """Writes what a view sees of a file, as bytes; returns why it sees nothing, or ""."""
    try:
        seen = view(file.read_bytes(), np.random.default_rng(0))  # which no view uses
    except ImageError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    pixels[:] = seen if seen.dtype == np.uint8 else np.rint(seen).clip(0, 255)
    return ""


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return powers / np.sum(powers, axis=-1, keepdims=True)
