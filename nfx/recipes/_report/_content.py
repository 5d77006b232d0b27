"""What there is to say about a run, wherever in its directory it is written."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from nfx._tree import parameter_count
from nfx._units import LeafUnits
from nfx.analysis import block_places
from nfx.checkpoint import Which
from nfx.data import Images, Splits
from nfx.optim import clipped_leaves
from nfx.recipes._evaluation import check_classes, parts_without_images
from nfx.recipes._images import recipe_images
from nfx.recipes._recipe import Recipe, recipe_from_config
from nfx.recipes._report._findings import find_out, Findings, load_checkpoint
from nfx.recipes._report._troubles import read_troubles, Troubles
from nfx.train import read_metrics, RunDirectory


@dataclasses.dataclass(frozen=True)
class RunReport:
    """What there is to say about a run.

    Attributes:
        directory: The run directory.
        recipe: What is trained, and how.
        result: What it came to; empty if it has not ended.
        records: Its metrics, as far as they go.
        leaves: What is clipped.
        parameters: How many parameters there are.
        places: Where the signal is measured: see `nfx.analysis.block_places`.
        findings: What its checkpoint does, or why that is not known.
        troubles: What went wrong.
    """

    directory: RunDirectory
    recipe: Recipe
    result: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    leaves: Sequence[LeafUnits]
    parameters: int
    places: Sequence[str]
    findings: Findings | str
    troubles: Troubles

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes."""
        return self.directory.config["class_names"]

    @property
    def training(self) -> Sequence[Mapping[str, Any]]:
        """The records of training."""
        return [record for record in self.records if "loss" in record]

    @property
    def evaluations(self) -> Sequence[Mapping[str, Any]]:
        """The records of evaluations."""
        return [record for record in self.records if "test_accuracy" in record]

    @property
    def step(self) -> int:
        """The last step that is known of."""
        return max((record["step"] for record in self.records), default=0)


def gather_report(
    directory: RunDirectory,
    mesh: Mesh,
    *,
    step: Which,
    data: str,
    say: Callable[[str], object],
) -> RunReport:
    """Reads a run directory, and runs its checkpoint on the test images.

    Args:
        directory: The run, which may be going on.
        mesh: Devices to use.
        step: The step of the checkpoint, or "best"; None for the latest that is whole.
        data: Where its images are now, if not where they were.
        say: Is told what is being done.

    Raises:
        ValueError: If what was asked for by name is not there, or not of the run's classes.
        CheckpointError: If there is no checkpoint of the step that was asked for.
    """
    recipe = recipe_from_config(directory.config)
    parts = parts_without_images(directory)
    model = jax.eval_shape(parts.build_model)
    checkpoint = load_checkpoint(directory, parts, mesh, step)
    images = _images(directory, recipe, data)
    if isinstance(images, str):
        findings = f"The test images cannot be classified. {images}"
    elif checkpoint.state is None:
        findings = "There is no checkpoint that is whole, so the test images are not classified."
    else:
        findings = find_out(checkpoint, recipe, parts._replace(images=images), mesh, say)
    troubles = read_troubles(directory)
    return RunReport(
        directory,
        recipe,
        directory.result,
        read_metrics(directory.path),
        clipped_leaves(jax.eval_shape(parts.optimizer.init, model)),
        parameter_count(model),
        block_places(model),
        findings,
        dataclasses.replace(troubles, damaged=[*troubles.damaged, *checkpoint.damaged]),
    )


def _images(directory: RunDirectory, recipe: Recipe, data: str) -> Splits[Images] | str:
    """The run's images, of which those that cannot be used do not count; or why there are none."""
    recipe = dataclasses.replace(recipe, data=data or recipe.data, bad_images="skip")
    try:
        images = recipe_images(recipe)
        check_classes(directory, images.test, recipe.data)
    except ValueError as error:
        if data:
            raise
        return f"{error} Say where they are now with --data."
    return images
