"""Renaming foreign parameters, with nothing dropped in silence."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from nfx._tree import leaves_by_path


Model = TypeVar("Model", bound=PyTree)


def fill(model: Model, foreign: Mapping[str, Any], names: Mapping[str, str]) -> Model:
    """Replaces every leaf of `model` by a foreign array of its shape, in its dtype.

    Args:
        model: What to fill; its leaves may be abstract.
        foreign: Arrays by foreign name.
        names: The foreign name of each leaf path of the model.

    Raises:
        ValueError: Listing, all at once, every leaf without an array, every array without a
            leaf, every shape that disagrees and every array with NaN or infinity in it.
    """
    leaves = leaves_by_path(model)
    problems = [
        problem
        for path, leaf in leaves.items()
        if (problem := _problem(path, leaf, names[path], foreign))
    ]
    known = set(names.values())
    problems += [
        f"the model has nothing for {name!r}, shape {np.shape(array)}"
        for name, array in foreign.items()
        if name not in known
    ]
    if problems:
        raise ValueError(
            f"These {len(foreign)} arrays do not fit the model, which has {len(leaves)}. Is it the "
            "variant they were made for, with the same classes and channels?\n"
            + "\n".join(f"  {problem}" for problem in problems)
        )
    filled = [jnp.asarray(foreign[names[path]], leaf.dtype) for path, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(model), filled)


def _problem(path: str, leaf: Any, name: str, foreign: Mapping[str, Any]) -> str | None:
    if name not in foreign:
        return f"no {name!r} for {path!r}, shape {leaf.shape}"
    array = np.asarray(foreign[name])
    if array.shape != leaf.shape:
        return f"{name!r} has shape {array.shape}, and {path!r} {leaf.shape}"
    if not np.isfinite(array).all():
        return f"{name!r} has values that are not finite"
    return None
