"""A trained classifier, wherever it comes from: a run, a file of weights, the Hub."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from nfx._checks import at_least
from nfx.data import CentreView, class_numbers
from nfx.graph import unstack_blocks
from nfx.models import create_model, initial_statistics, model_card, model_variant
from nfx.recipes._build import Parts
from nfx.recipes._classes import class_difference
from nfx.recipes._evaluation import parts_without_images, restore_run
from nfx.recipes._images import evaluation_transform
from nfx.recipes._recipe import recipe_from_config
from nfx.recipes._saved import find_run, SavedRun
from nfx.serving import ImageFormat
from nfx.sharding import place_whole, replicated
from nfx.train import RunDirectory, state_shardings
from nfx.weights import (
    load_pretrained,
    pretrained_model,
    read_description,
    to_official,
    to_timm,
    write_weights,
)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network, and the images it takes.

    Attributes:
        name: The model's name.
        model: The network.
        statistics: Its state: see `nfx.models.initial_statistics`.
        images: What it takes.
        class_names: Names of the classes, or their numbers where no names are known.
    """

    name: str
    model: Any
    statistics: Any
    images: ImageFormat
    class_names: tuple[str, ...]

    def class_difference(self, found: Sequence[str]) -> str:
        """Returns how the classes of images differ, in words; "" if they do not.

        Where no names are known, the number of classes is all that is compared, but for images
        whose classes are numbers too: they have to be in the order of the numbers.
        """
        numbers = class_numbers(len(found))
        unnamed = self.class_names == numbers and set(found) != set(numbers)
        return class_difference(self.class_names, numbers if unnamed else found)

    def on(self, mesh: Mesh) -> "Classifier":
        """Returns the classifier with its network split over a mesh as a run's would be.

        Of several processes all must have it, and call this.
        """
        return dataclasses.replace(
            self,
            model=place_whole(self.model, state_shardings(self.model, mesh)),
            statistics=place_whole(
                self.statistics, jax.tree.map(lambda _: replicated(mesh), self.statistics)
            ),
        )


def load_classifier(
    what: str | Path,
    *,
    model: str | None = None,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    offline: bool = False,
    mesh: Mesh | None = None,
) -> Classifier:
    """Loads a classifier.

    Args:
        what: A run directory, whose averaged parameters are used, of its latest checkpoint or, as
            RUN@STEP and RUN@best, of another; or weights: see `nfx.load_pretrained`.
        model: The model's name, for a file of weights that does not say it.
        class_names: Names of the classes, for weights that do not come with them.
        image_size: Side of the square that images are brought to; by default what the run was
            trained on, or the model's test size.
        offline: Whether to look for weights in the cache only.
        mesh: Where a run's parameters will live, by default on one device.

    Raises:
        ValueError: If something is missing or does not fit.
        RunDirectoryError: If a directory is not a run.
        CheckpointError: If its checkpoint is damaged.
    """
    at_least(1, image_size=image_size)
    if run := find_run(what):
        return _from_run(run, model, image_size, class_names, mesh)
    name = pretrained_model(what, model)
    network = load_pretrained(what, model=name, offline=offline)
    described = read_description(what)
    if "images" not in described:
        return _classifier(name, network, image_size, class_names)
    stored = {**described["images"], "size": image_size or described["images"]["size"]}
    pixels = {name: tuple(stored[name]) for name in ("mean", "std")}  # JSON has lists
    images = ImageFormat(**{**stored, **pixels})
    names = described["class_names"] if class_names is None else class_names
    return _named(name, network, images, names)


def save_classifier(classifier: Classifier, path: str | Path) -> None:
    """Writes a classifier as a file of weights that says what it is of: `load_classifier` reads it.

    The names of its arrays are those of its lineage, the official code's or timm's.

    Args:
        classifier: What to write.
        path: Where, with the suffix `.safetensors`.

    Raises:
        ValueError: If the model is of neither lineage.
        WeightsError: If the file cannot be written.
    """
    names_of = to_timm if model_card(classifier.name).lineage == "timm" else to_official
    description = {
        "model": classifier.name,
        "images": dataclasses.asdict(classifier.images),
        "class_names": classifier.class_names,
    }
    write_weights(path, names_of(classifier.model), description)


def random_classifier(
    name: str, *, class_names: Sequence[str] | None = None, image_size: int | None = None
) -> Classifier:
    """Returns a model with fresh parameters, of RGB images, which classifies nothing.

    Args:
        name: The model's name.
        class_names: Names of the classes; by default there are 1,000.
        image_size: Side of the images, by default the model's test size.

    Raises:
        ValueError: If there is no such model, or the size is not positive.
    """
    at_least(1, image_size=image_size)
    classes = 1000 if class_names is None else len(class_names)
    build = lambda: create_model(name, num_classes=classes, key=jax.random.key(0))
    return _classifier(name, jax.jit(build)(), image_size, class_names)


def _from_run(
    run: SavedRun,
    model: str | None,
    image_size: int | None,
    class_names: Sequence[str] | None,
    mesh: Mesh | None,
) -> Classifier:
    directory = RunDirectory.open(run.path)
    if class_names is not None:
        raise ValueError(
            f"The run in {str(run.path)!r} knows the names of its classes: leave them out."
        )
    trained = recipe_from_config(directory.config).model
    if model not in (None, trained):
        raise ValueError(
            f"The run in {str(run.path)!r} is of {trained}, not of {model}: leave the model out."
        )
    parts = parts_without_images(directory)
    state = restore_run(directory, parts, mesh, step=run.step)
    return run_classifier(directory, parts, state.ema, state.statistics, image_size)


def run_classifier(
    directory: RunDirectory,
    parts: Parts,
    model: PyTree,
    statistics: PyTree,
    image_size: int | None = None,
) -> Classifier:
    """Returns parameters of a run as a classifier.

    Args:
        directory: The run.
        parts: What its recipe stands for.
        model: The parameters.
        statistics: Their state: see `nfx.models.initial_statistics`.
        image_size: Side of the images, by default what the run is judged at.
    """
    recipe = recipe_from_config(directory.config)
    transform = evaluation_transform(recipe)
    whole = not isinstance(transform, CentreView)  # the sample, which is evaluated as it is stored
    images = ImageFormat(
        size=image_size or recipe.resolved_test_size,
        channels=recipe.channels,
        mean=parts.preprocessing.mean,
        std=parts.preprocessing.std,
        crop=1.0 if whole else transform.crop,
        view="timm" if whole else transform.rule,
    )
    names = tuple(directory.config["class_names"])
    return Classifier(recipe.model, unstack_blocks(model), statistics, images, names)


def _classifier(
    name: str, network: Any, image_size: int | None, class_names: Sequence[str] | None
) -> Classifier:
    """A network as its card says it is used."""
    card = model_card(name)
    channels = network.in_channels
    if channels not in (1, 3):
        raise ValueError(f"Images have 1 or 3 channels, and the model takes {channels}.")
    images = ImageFormat(
        size=image_size or model_variant(name).test_size,
        channels=channels,
        mean=card.mean if channels == 3 else card.mean[:1],
        std=card.std if channels == 3 else card.std[:1],
        crop=card.crop,
        view=card.view,
    )
    return _named(name, network, images, class_names)


def _named(
    name: str, network: Any, images: ImageFormat, class_names: Sequence[str] | None
) -> Classifier:
    """A network with the names of its classes, of which there must be as many."""
    classes = network.num_classes
    names = class_numbers(classes) if class_names is None else tuple(class_names)
    if len(names) != classes:
        raise ValueError(
            f"There are {len(names)} names, and the model has {classes} classes: give each a name, "
            "in the order of the logits."
        )
    return Classifier(name, network, initial_statistics(network), images, names)
