"""What a trained network sees in images."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from nfx.augment import normalize
from nfx.data import evaluation_batches, FolderSource, list_images, PADDING_LABEL, Splits, View
from nfx.models import apply_batch, model_card, model_variant
from nfx.recipes._build import build_parts
from nfx.recipes._evaluation import restore_run
from nfx.recipes._recipe import recipe_from_config
from nfx.train import RunDirectory
from nfx.weights import load_pretrained, pretrained_model


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
    """The most probable classes of an image, in order."""

    file: Path
    classes: tuple[ClassScore, ...]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network and the images it takes.

    Attributes:
        model: The network.
        statistics: Its state: see `nfx.models.initial_statistics`.
        mean: Mean of the pixels, on a scale of 0 to 1.
        std: Their standard deviation.
        source: The images.
    """

    model: Any
    statistics: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: FolderSource


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
    if top < 1 or batch_size < 1 or (image_size is not None and image_size < 1):
        raise ValueError(
            f"top={top}, batch_size={batch_size} and image_size={image_size} must be positive."
        )
    files = list_images(images)
    if Path(what).expanduser().is_dir():
        classifier = _from_run(what, files, image_size, class_names)
    else:
        classifier = _from_weights(what, files, model, image_size, class_names, offline)
    return _run(classifier, min(top, len(classifier.source.class_names)), batch_size)


def _from_run(
    run: str | Path, files: list[Path], image_size: int | None, class_names: Sequence[str] | None
) -> Classifier:
    directory = RunDirectory.open(run)
    recipe = recipe_from_config(directory.config)
    if class_names is not None:
        raise ValueError(f"The run in {str(run)!r} knows the names of its classes: leave them out.")
    channels = 1 if recipe.data == "sample" or recipe.color == "gray" else 3
    size = image_size or (28 if recipe.data == "sample" else recipe.image_size)
    source = _source(files, directory.config["class_names"], (size, size, channels), View())
    parts = build_parts(recipe, Splits(source, source))
    state = restore_run(directory, parts)
    mean, std = parts.preprocessing.mean, parts.preprocessing.std
    return Classifier(state.ema, state.statistics, mean, std, source)


def _from_weights(
    what: str | Path,
    files: list[Path],
    model: str | None,
    image_size: int | None,
    class_names: Sequence[str] | None,
    offline: bool,
) -> Classifier:
    name = pretrained_model(what, model)
    network = load_pretrained(what, model=name, offline=offline)
    card, size = model_card(name), image_size or model_variant(name).test_size
    classes = network.head.bias.shape[0]
    names = [str(index) for index in range(classes)] if class_names is None else class_names
    if len(names) != classes:
        raise ValueError(f"There are {len(names)} names, and the model has {classes} classes.")
    channels = network.stem[0].weight.shape[2]
    if channels not in (1, 3):
        raise ValueError(f"Images have 1 or 3 channels, and the model takes {channels}.")
    mean, std = (card.mean, card.std) if channels == 3 else ((card.mean[0],), (card.std[0],))
    view = View(card.crop, card.squash)
    return Classifier(network, None, mean, std, _source(files, names, (size, size, channels), view))


def _source(
    files: list[Path], names: Sequence[str], shape: tuple[int, int, int], view: View
) -> FolderSource:
    return FolderSource(files, np.zeros(len(files), np.int32), names, shape, view)


def _run(classifier: Classifier, top: int, batch_size: int) -> Iterator[Prediction]:
    @jax.jit
    def score(model: Any, statistics: Any, images: Array) -> tuple[Float[Array, "n top"], Array]:
        normalized = normalize(images, classifier.mean, classifier.std)
        logits, _ = apply_batch(model, statistics, normalized)
        probabilities, labels = jax.lax.top_k(jax.nn.softmax(logits), top)
        return probabilities, labels

    source = classifier.source
    files = iter(source.files)
    for batch in evaluation_batches(source, min(batch_size, len(source))):
        scores = score(classifier.model, classifier.statistics, batch.images)
        real = batch.labels != PADDING_LABEL
        for probabilities, labels in zip(*(np.asarray(x)[real] for x in scores), strict=True):
            classes = (
                ClassScore(label, str(source.class_names[label]), probability)
                for label, probability in zip(labels.tolist(), probabilities.tolist(), strict=True)
            )
            yield Prediction(next(files), tuple(classes))
