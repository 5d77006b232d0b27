"""What a person does with the checkpoints of a run: looks, verifies, averages."""

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from nfx import checkpoint
from nfx.checkpoint import CheckpointError
from nfx.models import is_batch_normalized
from nfx.recipes._build import build_parts, Parts
from nfx.recipes._classifier import run_classifier, save_classifier
from nfx.recipes._evaluation import (
    check_classes,
    compile_evaluation,
    parts_without_images,
    restore_run,
)
from nfx.recipes._feed import Feed
from nfx.recipes._recipe import recipe_from_config
from nfx.recipes._saved import look_at
from nfx.sharding import place_whole, read_mesh
from nfx.train import Evaluation, run_evaluation, RunDirectory, state_shardings
from nfx.weights import check_destination


Model = TypeVar("Model", bound=PyTree)

# Of a state: its averaged parameters, or the raw ones that the optimizer updates.
Parameters = Literal["ema", "raw"]

# Seconds between two counts of a checkpoint's files: one that is being removed has fewer each time.
_MOMENT = 1.0


class SavedCheckpoint(NamedTuple):
    """A checkpoint of a run.

    Attributes:
        step: Its step.
        saved: When it was saved.
        bytes: What it takes on disk.
        test_accuracy: Of the averaged parameters, if they were evaluated at this step.
        latest: Whether a run goes on from it.
        best: Whether no other has a higher test accuracy.
    """

    step: int
    saved: datetime
    bytes: int
    test_accuracy: float | None
    latest: bool
    best: bool


class AverageResult(NamedTuple):
    """What came of averaging checkpoints.

    Attributes:
        path: The file of weights.
        mean: How good the mean is; None if it was not evaluated.
        single: How good each of the averaged ones is, by step.
    """

    path: Path
    mean: Evaluation | None
    single: Mapping[int, Evaluation]


def list_checkpoints(run: str | Path) -> list[SavedCheckpoint]:
    """Returns the finished checkpoints of a run in order, without reading their arrays.

    The run may be going on: what it removes meanwhile is left out.

    Raises:
        RunDirectoryError: If there is no such run.
        CheckpointError: If the score of a checkpoint cannot be read.
    """
    directory = RunDirectory.open(run)
    with look_at(directory) as store:
        steps, scores, best = store.steps(), store.scores(), store.best()
    found: list[SavedCheckpoint] = []
    for step in steps:
        path = directory.checkpoints / str(step)
        with contextlib.suppress(FileNotFoundError):  # the run goes on, and has removed it
            found.append(
                SavedCheckpoint(
                    step=step,
                    bytes=_bytes(path),
                    saved=datetime.fromtimestamp(path.stat().st_mtime),
                    test_accuracy=scores.get(step),
                    latest=step == steps[-1],
                    best=step == best,
                )
            )
    return found


def damaged_checkpoints(run: str | Path) -> dict[int, Path]:
    """Returns where the damaged checkpoints are that a run has put aside, by step."""
    return checkpoint.damaged_checkpoints(RunDirectory.open(run).checkpoints)


def verify_checkpoints(run: str | Path, steps: Sequence[int] = ()) -> Iterator[tuple[int, str]]:
    """Reads checkpoints whole and compares every array with its checksum.

    Args:
        run: The run directory.
        steps: Which; all by default, but those that a run that is going on removes meanwhile.

    Yields:
        A step and what is wrong with its checkpoint, "" for nothing.

    Raises:
        RunDirectoryError: If there is no such run.
        CheckpointError: If it has no checkpoint.
    """
    directory = RunDirectory.open(run)
    parts = parts_without_images(directory)
    for step in steps or _steps(directory):
        try:
            restore_run(directory, parts, step=step)
        except CheckpointError as error:
            if steps or not _is_being_removed(directory.checkpoints / str(step)):
                yield step, str(error)
        else:
            yield step, ""


def average_checkpoints(
    run: str | Path,
    output: str | Path = "",
    *,
    steps: Sequence[int] = (),
    parameters: Parameters = "ema",
    evaluate: bool = True,
    mesh: str = "data=all",
) -> AverageResult:
    """Writes the mean of the parameters of several checkpoints as a file of weights.

    Args:
        run: The run directory.
        output: The file, which must end in .safetensors; by default average.safetensors in the run
            directory. `load_classifier` reads it, and a run can start from it.
        steps: Of which checkpoints, all by default.
        parameters: Which to take the mean of: the averaged parameters, or the raw ones.
        evaluate: Whether to evaluate the mean, and each single one, on the run's test images.
        mesh: Devices to evaluate on, as in training.

    Raises:
        RunDirectoryError: If there is no such run.
        CheckpointError: If it has no such checkpoints, or one is damaged.
        ValueError: If there are fewer than two, one is named twice, the model is normalized by
            the statistics of batches, or the images are not of the classes that it knows.
        WeightsError: If the file cannot be written.
    """
    directory = RunDirectory.open(run)
    path = check_destination(output or directory.path / "average.safetensors", described=True)
    recipe = recipe_from_config(directory.config)
    if is_batch_normalized(recipe.model):
        raise ValueError(
            f"{recipe.model} is batch-normalized, and the mean of its parameters would not fit the "
            "running statistics of any of its checkpoints: take one, as the best."
        )
    placed_on = read_mesh(mesh)
    if evaluate:
        parts = build_parts(recipe)
        check_classes(directory, parts.images.test, recipe.data)
    else:
        parts = parts_without_images(directory)
    chosen = _several(directory, steps)
    states = (restore_run(directory, parts, step=step) for step in chosen)
    models = [jax.device_get(state.ema if parameters == "ema" else state.model) for state in states]
    mean = mean_model(models)
    save_classifier(run_classifier(directory, parts, mean, None), path)
    if not evaluate:
        return AverageResult(path, None, {})
    found, *single = _evaluate(parts, [mean, *models], placed_on)
    return AverageResult(path, found, dict(zip(chosen, single, strict=True)))


def _several(directory: RunDirectory, steps: Sequence[int]) -> Sequence[int]:
    """The steps to average, all by default."""
    chosen = steps or _steps(directory)
    if repeated := sorted({step for step in chosen if chosen.count(step) > 1}):
        raise ValueError(
            f"Step {repeated[0]} is given {chosen.count(repeated[0])} times: give each step once."
        )
    if len(chosen) < 2:
        raise ValueError(
            f"Averaging takes several checkpoints, and step {chosen[0]} is one: "
            f"{str(directory.path)!r} has {', '.join(map(str, _steps(directory)))}. To keep more, "
            "give `nfx train` --keep-checkpoints N."
        )
    return chosen


def mean_model(models: Iterable[Model]) -> Model:
    """Returns the mean of models, leaf by leaf, computed in float64 and rounded once."""
    first, *others = models
    mean = lambda *leaves: np.mean(leaves, axis=0, dtype=np.float64).astype(leaves[0].dtype)
    return jax.tree.map(mean, first, *others)


def _evaluate(parts: Parts, models: Sequence[PyTree], mesh: Mesh) -> list[Evaluation]:
    feed = Feed(parts.images, mesh)
    placed = [place_whole(model, state_shardings(model, mesh)) for model in models]
    # Those that have statistics are not averaged.
    step = compile_evaluation(placed[0], None, parts.preprocessing, feed)
    return run_evaluation(step, placed, None, feed.evaluation())


def _steps(directory: RunDirectory) -> list[int]:
    """The steps of a run's checkpoints, of which there is one at least."""
    with look_at(directory) as store:
        steps = store.steps()
    if not steps:
        raise CheckpointError(f"{str(directory.path)!r} has no finished checkpoint: train first.")
    return steps


def _is_being_removed(path: Path) -> bool:
    """Whether a run that goes on removes a checkpoint: as long as its files become fewer."""
    fewest = math.inf
    while path.exists():
        count = sum(len(files) for _, _, files in os.walk(path))
        if count >= fewest:
            return False
        fewest = count
        time.sleep(_MOMENT)
    return True


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
