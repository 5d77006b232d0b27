"""Evaluating a run's parameters, as they are and averaged."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from nfx.checkpoint import Which
from nfx.data import Images, no_images, Splits
from nfx.recipes._build import abstract_batch, build_parts, Parts
from nfx.recipes._classes import class_difference, refuse_other_classes
from nfx.recipes._feed import Feed, ignore_skipped, OnSkip
from nfx.recipes._recipe import recipe_from_config
from nfx.recipes._saved import look_at
from nfx.sharding import make_mesh, read_mesh
from nfx.train import (
    abstract_state,
    compile_for_all,
    Evaluation,
    EvaluationCounts,
    make_evaluation_step,
    Preprocessing,
    run_evaluation,
    RunDirectory,
    TrainState,
)


class RunEvaluation(NamedTuple):
    """A run's parameters on its test images.

    Attributes:
        raw: The parameters that the optimizer updates.
        ema: The averaged ones, by which the run is judged.
    """

    raw: Evaluation
    ema: Evaluation

    def metrics(self) -> dict[str, float]:
        """Returns what is recorded of it."""
        return {
            "test_accuracy": self.ema.accuracy,
            "test_accuracy_raw": self.raw.accuracy,
            "test_loss": self.ema.loss,
        }


def evaluate(
    run: str | Path,
    *,
    data: str = "",
    step: Which = None,
    mesh: str = "data=all",
    bad_images: Literal["raise", "skip"] | None = None,
    on_skip: OnSkip = ignore_skipped,
) -> RunEvaluation:
    """Evaluates a checkpoint of a run on every test image once.

    Args:
        run: The run directory.
        data: Other images, of the same classes, whose test images to take: see
            `nfx.data.open_sources`.
        step: The step of the checkpoint, or "best" for the best by test accuracy; the latest by
            default.
        mesh: Devices to use, as in training; any, whatever the run was trained on.
        bad_images: What to do with images that cannot be used; by default as the run did when it
            began.
        on_skip: Is told of images that could not be used, if such are skipped.

    Raises:
        RunDirectoryError: If there is no such run.
        CheckpointError: If there is no such checkpoint, or it is damaged.
        ValueError: If the images are not of the classes that the model knows.
        BadImageError: If an image cannot be used and is not to be skipped.
    """
    directory = RunDirectory.open(run)
    recipe = recipe_from_config(directory.config)
    recipe = dataclasses.replace(
        recipe,
        data=data or recipe.data,
        bad_images=bad_images or recipe.bad_images,
        decoder="pillow",  # as test images always are
    )
    parts = build_parts(recipe)
    check_classes(directory, parts.images.test, recipe.data)
    feed = Feed(parts.images, read_mesh(mesh), on_skip)
    state = restore_run(directory, parts, feed.mesh, step=step)
    compiled = compile_evaluation(state.model, state.statistics, parts.preprocessing, feed)
    return evaluate_state(compiled, state, feed)


def check_classes(directory: RunDirectory, images: Images, data: str) -> None:
    """Raises a `ValueError` if images, of what `data` names, are not of a run's classes."""
    difference = class_difference(directory.config["class_names"], images.class_names)
    refuse_other_classes(difference, data)


def parts_without_images(directory: RunDirectory) -> Parts:
    """Returns what a run's recipe stands for, where its images need not be.

    From the names of the classes alone the shape of the model follows. Nor need the decoder of
    training images be installed.
    """
    nothing = no_images(directory.config["class_names"])
    recipe = dataclasses.replace(recipe_from_config(directory.config), decoder="pillow")
    return build_parts(recipe, Splits(nothing, nothing))


def restore_run(
    directory: RunDirectory, parts: Parts, mesh: Mesh | None = None, *, step: Which = None
) -> TrainState:
    """Reads the state of a run from a checkpoint.

    Args:
        directory: The run.
        parts: What its recipe stands for.
        mesh: Where the state will live, by default on one device.
        step: The step of the checkpoint, or "best"; the latest by default.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged.
    """
    mesh = mesh or make_mesh({"data": 1}, jax.devices()[:1])
    with look_at(directory) as store:
        like = abstract_state(parts.build_model, parts.optimizer, mesh)
        return store.restore(like, step=step)


def compile_evaluation(
    model: PyTree, statistics: PyTree, preprocessing: Preprocessing, feed: Feed
) -> jax.stages.Compiled:
    """Compiles the step that evaluates a model; of several processes all must call it."""
    step = make_evaluation_step(preprocessing, feed.mesh)
    batch = abstract_batch(feed.images.test, feed.evaluation_batch_size, feed.mesh)
    return compile_for_all(step, model, statistics, batch, name="evaluation step")


def evaluate_state(
    step: Callable[..., EvaluationCounts], state: TrainState, feed: Feed
) -> RunEvaluation:
    """Evaluates the two sets of parameters that a state holds, in one pass over the images.

    Both with the running averages of a batch-normalized model, which follow the raw ones.
    """
    models = (state.model, state.ema)
    return RunEvaluation(*run_evaluation(step, models, state.statistics, feed.evaluation()))
