"""A run from its first line to its result."""

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from nfx._show import typed_path
from nfx.checkpoint import CheckpointStore, tree_digest
from nfx.optim import clipped_leaves
from nfx.recipes._build import build_parts, check_mesh, Parts
from nfx.recipes._evaluation import RunEvaluation
from nfx.recipes._feed import Feed
from nfx.recipes._opening import open_directory, resumes
from nfx.recipes._options import RunOptions
from nfx.recipes._recipe import Recipe
from nfx.recipes._session import cadence_of, Guard, Session
from nfx.recipes._start import absolute_start, check_start
from nfx.recipes._toml import recipe_to_toml
from nfx.sharding import read_mesh
from nfx.train import (
    BadImagesLog,
    check_wandb,
    Display,
    HangWatch,
    idle_axes,
    is_first_process,
    NonfiniteLog,
    plot_clipping,
    RunDirectory,
    RunDirectoryError,
    state_specs,
    StopRequest,
    TrainingStopped,
    TrainState,
    wait_for_all,
)


def train(
    recipe: Recipe,
    options: RunOptions,
    *,
    name: str = "custom",
    stop: StopRequest | None = None,
) -> RunDirectory:
    """Runs a recipe, or resumes it, and writes the run directory.

    Of several processes all must call it, with a run directory that they share; one of them
    writes: see `nfx.train.initialize_processes`.

    Args:
        recipe: What to train.
        options: How.
        name: What to call the recipe in the name of a new run directory.
        stop: Asks the run to stop: see `nfx.train.stop_on_signals`.

    Returns:
        The run directory, with `result.json` in it.

    Raises:
        ValueError: If recipe, options and machine do not fit together, or the run directory
            holds a run of another recipe.
        RunDirectoryError: If the run directory is taken or in use, or there is none to resume.
        CheckpointError: If there are checkpoints and none can be loaded, or none can be saved.
        TrainingError: If training diverges, or cannot be shown where it is to be.
        TrainingStopped: If it was asked to stop, and has saved a checkpoint.
    """
    began = time.monotonic()
    recipe = _from_anywhere(recipe)
    mesh = read_mesh(options.mesh)
    parts = build_parts(recipe)
    _check(recipe, options, parts, mesh)
    display = Display(recipe.steps, recipe.batch_size, quiet=not is_first_process())
    stop = stop or StopRequest()
    with open_directory(recipe, options, parts, name, say=display.say) as directory:
        display.say(_opening_words(recipe, parts, mesh, directory))
        with _session(recipe, options, parts, mesh, directory, display, stop) as session:
            state, evaluation, latest = session.run()
            best = session.store.best(), session.store.scores()
        if evaluation is None:
            wait_for_all("stopped")
            raise _stopped(stop, int(state.step), directory, options)
        result = {
            **_result(directory, state, evaluation, latest),
            **_devices(mesh),
            "wall_seconds": time.monotonic() - began,
        }
        if is_first_process():
            directory.write_result(result)
            plot_clipping(directory.path, clipped_leaves(state.opt_state))
        display.say(_closing_words(recipe, directory, result) + _best_words(directory, *best))
        wait_for_all("finished")
    return directory


def _from_anywhere(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, so that the run can be continued and evaluated anywhere."""
    if recipe.data not in ("", "sample", "noise"):
        recipe = dataclasses.replace(recipe, data=str(Path(recipe.data).expanduser().absolute()))
    return dataclasses.replace(recipe, init=absolute_start(recipe.init))


@contextmanager
def _session(
    recipe: Recipe,
    options: RunOptions,
    parts: Parts,
    mesh: Mesh,
    directory: RunDirectory,
    display: Display,
    stop: StopRequest,
) -> Iterator[Session]:
    """A run's training, with all that it writes open."""
    path, say = directory.path, display.say
    with (
        CheckpointStore(
            directory.checkpoints, keep=options.keep_checkpoints, warn=_warning(display)
        ) as store,
        display,
        closing(BadImagesLog(path, share=recipe.bad_share, say=say)) as bad_images,
        HangWatch(path, timeout=options.hang_timeout) as watch,
    ):
        if is_first_process():
            directory.write_text("recipe.toml", recipe_to_toml(recipe))
        feed = Feed(parts.images, mesh, bad_images.take, options.loading)
        guard = Guard(watch, stop, NonfiniteLog(path))
        yield Session(recipe, options, parts, feed, store, display, directory, guard)


def _check(recipe: Recipe, options: RunOptions, parts: Parts, mesh: Mesh) -> None:
    """Refuses what cannot be trained, before anything is written."""
    if jax.process_count() > 1 and not options.run_dir:
        raise ValueError(
            f"This is one of {jax.process_count()} processes, and they share a run directory: give "
            "--run-dir DIR, the same to all, where all of them can read and write."
        )
    check_mesh(recipe, mesh)
    recipe_to_toml(recipe)
    cadence_of(recipe, options)
    if recipe.batch_size > len(parts.images.train):
        raise ValueError(
            f"batch_size={recipe.batch_size} must be at most the {len(parts.images.train)} images "
            "to train on."
        )
    check_wandb(options.wandb)
    jax.eval_shape(parts.build_model)
    if recipe.init and not resumes(options):
        check_start(recipe)


def _warning(display: Display) -> Callable[[str], None]:
    return lambda message: display.say(f"WARNING: {message}")


def _stopped(
    stop: StopRequest, step: int, directory: RunDirectory, options: RunOptions
) -> TrainingStopped:
    """What a run that was stopped says."""
    received = stop.signal or signal.SIGTERM  # another process received it
    mesh = "" if options.mesh == RunOptions().mesh else f" --mesh {options.mesh}"
    command = f"nfx train --run-dir {typed_path(directory.path)}{mesh} --resume"
    if jax.process_count() > 1:
        command = "the same command, of all processes, with --resume-if-begun"
    return TrainingStopped(
        f"Stopped by {received.name} after step {step:,}, which is saved. Resume, to the same "
        f"bits as if it had not stopped:\n  {command}",
        received,
    )


def _result(
    directory: RunDirectory,
    state: TrainState,
    evaluation: RunEvaluation,
    latest: Mapping[str, Any],
) -> dict[str, Any]:
    """What a run came to, for `result.json`."""
    # The run had ended before, and its last metrics are no more.
    if latest.get("step") != int(state.step) or "last_loss" not in latest:
        raise RunDirectoryError(
            f"{str(directory.path / 'metrics.jsonl')!r} has no record of the last step, which the "
            "run has trained: put the file back from a copy, and resume. Its checkpoints can be "
            f"used without: nfx evaluate {typed_path(directory.path)}"
        )
    return {
        **evaluation.metrics(),
        "train_loss": latest["last_loss"],
        "steps": int(state.step),
        "params_digest": tree_digest(state.model),
    }


def _devices(mesh: Mesh) -> dict[str, Any]:
    return {"platform": mesh.devices.flat[0].platform, "mesh": dict(mesh.shape)}


def _opening_words(recipe: Recipe, parts: Parts, mesh: Mesh, directory: RunDirectory) -> str:
    train, test = parts.images
    platform = mesh.devices.flat[0].platform
    model = jax.eval_shape(parts.build_model)
    idle = "".join(
        f"The axis {axis!r} of the mesh splits nothing of {recipe.model}: its devices all do the "
        "same.\n"
        for axis in idle_axes(state_specs(model, mesh), mesh)
    )
    return (
        f"Training {recipe.model} on {len(train):,} images of {len(train.class_names)} classes "
        f"({len(test):,} to test with): {recipe.steps:,} steps of {recipe.batch_size}, on "
        f"{mesh.size} {platform} device{'s' if mesh.size > 1 else ''}.\n"
        f"{idle}Run directory: {typed_path(directory.path)}"
    )


def _closing_words(recipe: Recipe, directory: RunDirectory, result: dict[str, Any]) -> str:
    others = (
        "Train on your images:   nfx train --data DIR    (DIR/train/CLASS/*.jpg and "
        "DIR/test/CLASS/*.jpg)\n"
    )
    path = typed_path(directory.path)
    return (
        f"\nTest accuracy {result['test_accuracy']:.1%} in {result['wall_seconds']:.0f} s; "
        f"everything about the run is in {path}\n\n"
        f"Look at it:             nfx report {path}\n"
        f"Evaluate it again:      nfx evaluate {path}\n"
        f"Name what is in images: nfx predict {path} IMAGES\n"
        f"Take it elsewhere:      nfx export {path}\n"
        f"{others if recipe.data == 'sample' else ''}"
        "Everything there is:    nfx train --help"
    )


def _best_words(directory: RunDirectory, best: int | None, scores: Mapping[int, float]) -> str:
    """What is said of the best checkpoint, if it is not the last."""
    if best is None or best == max(scores):
        return ""
    return (
        f"\n\nThe best checkpoint is that of step {best:,}, with a test accuracy of "
        f"{scores[best]:.1%}:\n"
        f"Evaluate it:            nfx evaluate {typed_path(directory.path)} --step best"
    )
