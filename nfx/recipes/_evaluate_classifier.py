"""Evaluating a classifier, wherever it comes from, on images of one's own."""

from typing import Literal

from nfx.augment import Augmentation
from nfx.data import Images, open_sources, Splits
from nfx.recipes._classes import refuse_other_classes
from nfx.recipes._classifier import Classifier
from nfx.recipes._evaluation import compile_evaluation
from nfx.recipes._feed import Feed, ignore_skipped, OnSkip
from nfx.serving import centre_view
from nfx.sharding import read_mesh
from nfx.train import Evaluation, Preprocessing, run_evaluation


def evaluate_classifier(
    classifier: Classifier,
    data: str,
    *,
    mesh: str = "data=all",
    bad_images: Literal["raise", "skip"] = "raise",
    on_skip: OnSkip = ignore_skipped,
) -> Evaluation:
    """Evaluates a classifier on every test image once.

    Args:
        classifier: See `load_classifier`. Where the names of its classes are not known, they are
            taken to be in the order of the folders' names.
        data: The images: see `nfx.data.open_sources`.
        mesh: Devices to use, as "data=4,fsdp=2".
        bad_images: What to do with images that cannot be used.
        on_skip: Is told of images that could not be used, if such are skipped.

    Raises:
        ValueError: If there are no such images, or their classes are not the classifier's.
        BadImageError: If an image cannot be used and is not to be skipped.
    """
    source = open_sources(data).test
    refuse_other_classes(classifier.class_difference(source.class_names), data)
    form = classifier.images
    images = Images(source, centre_view(form), bad_images)
    feed = Feed(Splits(images, images), read_mesh(mesh), on_skip)
    placed = classifier.on(feed.mesh)
    preprocessing = Preprocessing(form.mean, form.std, Augmentation())
    step = compile_evaluation(placed.model, placed.statistics, preprocessing, feed)
    (evaluation,) = run_evaluation(step, [placed.model], placed.statistics, feed.evaluation())
    return evaluation
