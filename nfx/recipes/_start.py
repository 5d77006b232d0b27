"""The first state of a run that starts from weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from nfx._tree import leaves_by_path
from nfx.graph import adapt_input_channels, stack_like, unstack_blocks
from nfx.recipes._build import Parts
from nfx.recipes._classifier import Classifier, load_classifier
from nfx.recipes._recipe import Recipe, recipe_from_config
from nfx.recipes._saved import find_run, look_at
from nfx.train import RunDirectory, start_state, TrainState
from nfx.weights import pretrained_model, read_description


def absolute_start(init: str) -> str:
    """Returns `init` so that it means the same from anywhere."""
    path = Path(init).expanduser()
    on_the_hub = init.startswith("timm/") and find_run(init) is None and not path.is_file()
    return init if not init or on_the_hub else str(path.absolute())


def check_start(recipe: Recipe) -> None:
    """Raises if a recipe cannot start from what it names, before anything large is read.

    Raises:
        ValueError: If it is of another model, or of images of other channels and not of RGB, or
            there is no such thing.
        RunDirectoryError: If it is a directory and not a run.
        CheckpointError: If it is a run that has no such checkpoint.
    """
    found, channels = _described(recipe)
    if found != recipe.model:
        raise ValueError(
            f"init={recipe.init!r} is of {found!r}, and the recipe trains {recipe.model!r}: give "
            f"--model {found}, or start from something else."
        )
    if channels not in (recipe.channels, 3):
        raise ValueError(
            f"init={recipe.init!r} is of gray images, and the recipe's have {recipe.channels} "
            "channels: only what is of RGB can be adapted. Give --color gray, or start from "
            "something else."
        )
    if run := find_run(recipe.init):
        with look_at(RunDirectory.open(run.path)) as store:
            store.find(run.step)


def start_from(recipe: Recipe, parts: Parts, mesh: Mesh) -> tuple[TrainState, str]:
    """Builds the first state of a run from the weights that its recipe names.

    Args:
        recipe: The recipe.
        parts: What it stands for.
        mesh: Where the state will live; what is split is never whole on a device, but for weights
            in files, which are read whole.

    Returns:
        The state, and what to say of it.

    Raises:
        ValueError: If the weights do not fit the recipe, or there are none.
        CheckpointError: If they are of a run that has no such checkpoint, or it is damaged.
    """
    check_start(recipe)
    source = load_classifier(recipe.init, model=recipe.model, mesh=mesh)
    keeps = not source.class_difference(parts.images.train.class_names)
    model = source.model if find_run(recipe.init) else source.on(mesh).model
    # The head that a run from nothing would have: no more of the model is computed.
    fresh = lambda: jax.device_get(jax.jit(lambda: parts.build_model().head)())
    head = model.head if keeps else fresh()

    def build(model: Any, head: PyTree) -> PyTree:
        if source.images.channels != recipe.channels:
            model = adapt_input_channels(model, recipe.channels)
        return _as_built(model, head, parts)

    state = start_state(build, (model, head), source.statistics, parts.optimizer, mesh)
    return state, _words(recipe, parts, source, keeps)


def _described(recipe: Recipe) -> tuple[str, int]:
    """The name of the model that a run starts from, and the channels of its images.

    A file that does not say what it is of has to be of the recipe's model, and of RGB.
    """
    if run := find_run(recipe.init):
        source = recipe_from_config(RunDirectory.open(run.path).config)
        return source.model, source.channels
    path = Path(recipe.init).expanduser()
    described = read_description(path)
    named = described.get("model", recipe.model) if path.is_file() else None
    channels = described["images"]["channels"] if "images" in described else 3
    return pretrained_model(recipe.init, named), channels


def _as_built(model: PyTree, head: PyTree, parts: Parts) -> PyTree:
    """The parameters of a model with its blocks on their own, in the recipe's own model.

    That has rates of dropout of its own, and its blocks may be stacked.
    """
    like = jax.eval_shape(parts.build_model)
    plain = unstack_blocks(like)
    leaves = {**leaves_by_path(model), **leaves_by_path({"head": head})}
    filled = jax.tree.unflatten(
        jax.tree.structure(plain), [leaves[path] for path in leaves_by_path(plain)]
    )
    return stack_like(filled, like)


def _digits(normalization: Sequence[Sequence[float]]) -> str:
    return " and ".join(f"({', '.join(f'{x:.3g}' for x in part)})" for part in normalization)


def _words(recipe: Recipe, parts: Parts, source: Classifier, keeps: bool) -> str:
    """What is said of a start."""
    old, new = len(source.class_names), len(parts.images.train.class_names)
    head = (
        f"its head of {old:,} classes is kept"
        if keeps
        else f"a fresh head of {new:,} classes takes the place of that of {old:,}"
    )
    words = [f"Starting from the weights of {recipe.init}: {head}"]
    if source.images.channels != recipe.channels:
        words.append(
            f"the first kernel is adapted from {source.images.channels} channels to "
            f"{recipe.channels}"
        )
    elif (theirs := (source.images.mean, source.images.std)) != (ours := parts.preprocessing[:2]):
        words.append(
            "pixels are normalized by another mean and deviation than it is used to, "
            f"{_digits(ours)} for {_digits(theirs)}"
        )
    if recipe.freeze != "none":
        words.append("nothing but the head is trained")
    return "; ".join(words) + "."
