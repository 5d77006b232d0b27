"""Evaluating a run's parameters, as they are and averaged."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from nfx.checkpoint import CheckpointStore
from nfx.data import Batch, evaluation_batches
from nfx.recipes._build import abstract_batch, build_parts, Parts
from nfx.recipes._recipe import recipe_from_config
from nfx.sharding import batch_shards, make_mesh, parse_mesh_shape
from nfx.train import (
    abstract_state,
    compile_for_all,
    Evaluation,
    EvaluationCounts,
    load_parts,
    make_evaluation_step,
    run_evaluation,
    RunDirectory,
    TrainState,
)


# Images that a device evaluates at a time. The result does not depend on it.
_IMAGES_PER_DEVICE = 128


class RunEvaluation(NamedTuple):
    """A run's parameters on its test images.

    Attributes:
        raw: The parameters as trained.
        ema: Their average, by which the run is judged.
    """

    raw: Evaluation
    ema: Evaluation


def evaluate(
    run_dir: str | Path, *, data: str = "", step: int | None = None, mesh: str = "data=all"
) -> RunEvaluation:
    """Evaluates a checkpoint of a run on every test image once.

    Args:
        run_dir: The run directory.
        data: Another folder, of the same classes, whose test images to take (its test/ or val/,
            or every tenth image: see `nfx.data.load_folder`).
        step: The step of the checkpoint, the latest by default.
        mesh: Devices to use, as in training; any, whatever the run was trained on.

    Raises:
        RunDirectoryError: If there is no such run.
        CheckpointError: If there is no such checkpoint, or it is damaged.
        ValueError: If the images are not of the classes that the model knows.
    """
    directory = RunDirectory.open(run_dir)
    recipe = recipe_from_config(directory.config)
    parts = build_parts(dataclasses.replace(recipe, data=data) if data else recipe)
    known, found = directory.config.get("class_names", []), list(parts.splits.test.class_names)
    if found != known:
        raise ValueError(
            f"The model knows the classes {', '.join(known)}, and the images are of "
            f"{', '.join(found)}: name the folders as in training."
        )
    devices = make_mesh(parse_mesh_shape(mesh, jax.device_count()))
    state = restore_run(directory, parts, devices, step=step)
    return evaluate_state(compile_evaluation(state, parts, devices), state, parts, devices)


def restore_run(
    directory: RunDirectory, parts: Parts, mesh: Mesh | None = None, *, step: int | None = None
) -> TrainState:
    """Reads the state of a run from a checkpoint.

    Args:
        directory: The run.
        parts: What its recipe stands for.
        mesh: Where the state will live, by default on one device.
        step: The step of the checkpoint, the latest by default.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged.
    """
    mesh = mesh or make_mesh({"data": 1}, jax.devices()[:1])
    with CheckpointStore(directory.checkpoints, read_only=True) as store:
        like = abstract_state(parts.build_model, parts.optimizer, mesh)
        return store.restore(like, step=step)


def compile_evaluation(state: TrainState, parts: Parts, mesh: Mesh) -> jax.stages.Compiled:
    """Compiles the step that evaluates a state; of several processes all must call it."""
    step = make_evaluation_step(parts.preprocessing, mesh)
    batch = abstract_batch(parts.splits.test, _batch_size(mesh), mesh)
    return compile_for_all(step, state.model, state.statistics, batch, name="evaluation step")


def evaluate_state(
    step: Callable[..., EvaluationCounts], state: TrainState, parts: Parts, mesh: Mesh
) -> RunEvaluation:
    """Evaluates the two sets of parameters that a state holds.

    Both with the running averages of a batch-normalized model, which follow the raw ones.
    """

    def run(model: PyTree) -> Evaluation:
        return run_evaluation(step, model, state.statistics, load_parts(load, mesh), mesh)

    def load(host: int, hosts: int) -> Iterator[Batch]:
        return evaluation_batches(parts.splits.test, _batch_size(mesh), host=host, hosts=hosts)

    return RunEvaluation(run(state.model), run(state.ema))


def _batch_size(mesh: Mesh) -> int:
    return _IMAGES_PER_DEVICE * batch_shards(mesh)
