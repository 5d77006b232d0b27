"""The directory of a run: a new one, or that of a run to resume."""

import dataclasses
import functools as ft
import importlib.metadata
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import jax

from nfx.recipes._build import Parts
from nfx.recipes._options import RunOptions
from nfx.recipes._recipe import check_same_recipe, Recipe, recipe_from_config
from nfx.train import (
    has_begun,
    is_first_process,
    lock_directory,
    make_directory,
    RunDirectory,
    RunDirectoryError,
    wait_for_all,
)


def resumes(options: RunOptions) -> bool:
    """Whether a run is resumed, and not begun."""
    return options.resume or (options.resume_if_begun and has_begun(options.run_dir))


@contextmanager
def open_directory(
    recipe: Recipe,
    options: RunOptions,
    parts: Parts,
    name: str,
    *,
    say: Callable[[str], object],
) -> Iterator[RunDirectory]:
    """Creates the directory of a new run, or opens that of one to resume, for all processes.

    It is locked before it is looked into, and as long as the run goes on. A run that was refused,
    or stopped, before it saved anything gives way to a new one.

    Args:
        recipe: What is trained.
        options: Where, and whether to resume.
        parts: What the recipe stands for.
        name: What to call the recipe in the name of a new run directory.
        say: Is told if the directory cannot be locked.

    Raises:
        ValueError: If the directory holds a run of another recipe, or of other images.
        RunDirectoryError: If it is taken, there is none to resume, or processes do not share it.
    """
    if (options.resume or options.resume_if_begun) and not options.run_dir:
        raise ValueError("--resume needs to know what: give --run-dir DIR too.")
    if not is_first_process():
        yield _open_after_first(recipe, options, parts)
        return
    named = options.run_dir or f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}"
    path = RunDirectory.open(named).path if resumes(options) else make_directory(named)
    with lock_directory(path, say=say):
        if resumes(options):
            directory = _open_begun(recipe, options, parts)
        else:
            directory = RunDirectory.create(path, _config(recipe, options, parts))
        wait_for_all("opened the run directory")
        yield directory


def _open_after_first(recipe: Recipe, options: RunOptions, parts: Parts) -> RunDirectory:
    """Opens the directory once the first process has, which alone decides whether to resume."""
    wait_for_all("opened the run directory")
    if not has_begun(options.run_dir):
        raise RunDirectoryError(
            f"Process {jax.process_index()} does not see the run in {options.run_dir!r} that "
            "process 0 sees: put the run directory on storage that all hosts share."
        )
    return _open_begun(recipe, options, parts)


def _open_begun(recipe: Recipe, options: RunOptions, parts: Parts) -> RunDirectory:
    """Opens a directory that has to be of the same run."""
    directory = RunDirectory.open(options.run_dir)
    check_same_recipe(options.run_dir, recipe_from_config(directory.config), recipe)
    _check_same_images(directory, parts)
    return directory


def _config(recipe: Recipe, options: RunOptions, parts: Parts) -> dict[str, Any]:
    packages = ("nfx", "jax", "equinox", "optax", "orbax-checkpoint", "grain")
    return {
        "recipe": dataclasses.asdict(recipe),
        "options": options.remembered,
        **_describe_images(parts),
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the checkout that this code is in, if it is in one; "+" if it was changed."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        run = ft.partial(subprocess.run, check=True, capture_output=True, text=True, timeout=10)
        run([*git, "ls-files", "--error-unmatch", Path(__file__).name])  # not of others around it
        commit = run([*git, "rev-parse", "HEAD"]).stdout.strip()
        changed = run([*git, "status", "--porcelain", "--", str(here.parent)]).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _describe_images(parts: Parts) -> dict[str, Any]:
    train, test = parts.images
    return {"class_names": list(train.class_names), "images": [len(train), len(test)]}


def _check_same_images(directory: RunDirectory, parts: Parts) -> None:
    found = _describe_images(parts)
    saved = {name: directory.config.get(name) for name in found}
    if found != saved:
        raise ValueError(
            f"The run in {str(directory.path)!r} began with {saved}, and there are {found} "
            "now. Put the images back as they were, or start another run."
        )
