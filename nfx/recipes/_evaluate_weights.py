"""Evaluating weights that come from elsewhere, on images of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nfx.augment import Augmentation
from nfx.data import Images, open_sources, Splits
from nfx.recipes._classes import refuse_other_classes
from nfx.recipes._classifier import load_classifier
from nfx.recipes._evaluation import compile_evaluation
from nfx.recipes._feed import Feed, ignore_skipped, OnSkip
from nfx.serving import centre_view
from nfx.sharding import read_mesh
from nfx.train import Evaluation, Preprocessing, run_evaluation
from nfx.weights import pretrained_model


def evaluate_weights(  # noqa: PLR0913 (one for each thing that may differ)
    what: str | Path,
    data: str,
    *,
    model: str | None = None,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    mesh: str = "data=all",
    bad_images: Literal["raise", "skip"] = "raise",
    on_skip: OnSkip = ignore_skipped,
    offline: bool = False,
) -> Evaluation:
    """Evaluates a file of weights, or a name of the Hub, on every test image once.

    Args:
        what: The weights: see `nfx.load_pretrained`.
        data: The images: see `nfx.data.open_sources`.
        model: The model's name, for a file of weights.
        class_names: Names of the classes, in the order of the logits. Where they are not known
            it is taken to be the order of the folders' names.
        image_size: Side of the images; the model's test size by default.
        mesh: Devices to use, as "data=4,fsdp=2".
        bad_images: What to do with images that cannot be used.
        on_skip: Is told of images that could not be used, if such are skipped.
        offline: Whether to look for weights in the cache only.

    Raises:
        ValueError: If something is missing or does not fit, as the classes.
        BadImageError: If an image cannot be used and is not to be skipped.
    """
    pretrained_model(what, model)  # what is mistyped is not said to know no images
    if not data:
        raise ValueError(
            f"Weights as {str(what)!r} know no images: give some by --data DIR, with "
            "test/CLASS/*.jpg in it."
        )
    source = open_sources(data).test
    classifier = load_classifier(
        what, model=model, class_names=class_names, image_size=image_size, offline=offline
    )
    refuse_other_classes(classifier.class_difference(source.class_names), data)
    form = classifier.images
    images = Images(source, centre_view(form), bad_images)
    feed = Feed(Splits(images, images), read_mesh(mesh), on_skip)
    placed = classifier.on(feed.mesh)
    preprocessing = Preprocessing(form.mean, form.std, Augmentation())
    step = compile_evaluation(placed.model, placed.statistics, preprocessing, feed)
    (evaluation,) = run_evaluation(step, [placed.model], placed.statistics, feed.evaluation())
    return evaluation
