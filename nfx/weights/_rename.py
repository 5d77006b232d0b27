"""Renaming foreign parameters, with nothing dropped in silence."""

import re
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from nfx._tree import leaves_by_path, path_matches
from nfx.graph import stack_like, unstack_blocks
from nfx.models import NFNet
from nfx.nn import Conv2d


Model = TypeVar("Model", bound=PyTree)


class Conversion(NamedTuple):
    """From nfx's layout of a leaf to another, and back."""

    to_foreign: Callable[[np.ndarray], np.ndarray]
    from_foreign: Callable[[np.ndarray], np.ndarray]


# By what a leaf of nfx (HWIO, IO, vectors) becomes.
LAYOUTS: Mapping[str, Conversion] = MappingProxyType({
    "same": Conversion(lambda x: x,                       lambda x: x),
    "OIHW": Conversion(lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0)),
    "OI":   Conversion(lambda x: x.T,                     lambda x: x.T),
    "OI11": Conversion(lambda x: x.T[:, :, None, None],   lambda x: x[:, :, 0, 0].T),
    "O111": Conversion(lambda x: x[:, None, None, None],  lambda x: x[:, 0, 0, 0]),
    "11K":  Conversion(lambda x: x[None, None],           lambda x: x[0, 0]),
})  # fmt: skip


class Parameter(NamedTuple):
    r"""What leaves are called within their module, and how they are laid out.

    Attributes:
        pattern: Of leaf paths: see `nfx._tree.path_matches`.
        name: The foreign name.
        layout: One of `LAYOUTS`.
    """

    pattern: str
    name: str
    layout: str = "same"


class Module(NamedTuple):
    r"""What modules are called.

    Attributes:
        pattern: A regular expression for the whole path of the module.
        name: The foreign name, with `\1` for groups.
    """

    pattern: str
    name: str


class ForeignLeaf(NamedTuple):
    """Where a leaf is elsewhere: its name, and one of `LAYOUTS`."""

    name: str
    layout: str


# A replaced classifier is what `strict=False` is for.
_CLASSIFIER = ("head/weight", "head/bias")


# Of what does not fit, so many are listed.
_LISTED = 20


# From a model to where each of its leaf paths is elsewhere.
NamesOf = Callable[[PyTree], Mapping[str, ForeignLeaf]]


def rename(
    path: str, modules: tuple[Module, ...], parameters: tuple[Parameter, ...], separator: str
) -> ForeignLeaf | None:
    """Looks a leaf path up in two tables; None if it is not in them. First matches win."""
    owner, _, _ = path.rpartition("/")
    for pattern, name in modules:
        if not (match := re.fullmatch(pattern, owner)):
            continue
        for suffix, parameter, layout in parameters:
            if path_matches(path, suffix):
                return ForeignLeaf(match.expand(name) + separator + parameter, layout)
    return None


def complete(found: Mapping[str, ForeignLeaf | None], where: str) -> dict[str, ForeignLeaf]:
    """Returns `found` if every leaf has a foreign name.

    Raises:
        ValueError: Listing the leaves that have none.
    """
    nameless = [path for path, leaf in found.items() if leaf is None]
    if nameless:
        raise ValueError(
            f"These leaves have no name in {where}: {', '.join(nameless[:5])}"
            f"{' and others' if len(nameless) > 5 else ''}. Is it a model that can be there?"
        )
    return {path: leaf for path, leaf in found.items() if leaf is not None}


def _as_named(model: Any) -> Any:
    """Returns `model` with its blocks on their own, as the foreign names have them.

    Raises:
        ValueError: If the model is folded: its kernels have no counterpart elsewhere.
    """
    if not isinstance(model, NFNet):
        return model
    if isinstance(model.stem[0], Conv2d):
        raise ValueError(
            "The model's weight standardization is folded into its kernels, and cannot be taken "
            "out again: export, or fill, the model that it was made from."
        )
    return unstack_blocks(model)


def export(model: PyTree, names_of: NamesOf) -> dict[str, np.ndarray]:
    """Returns the leaves of `model` by foreign name, in the foreign layout."""
    model = _as_named(model)
    names = names_of(model)
    return {
        name: np.asarray(LAYOUTS[layout].to_foreign(np.asarray(leaf)), order="C")
        for (name, layout), leaf in (
            (names[path], leaf) for path, leaf in leaves_by_path(model).items()
        )
    }


def fill(model: Model, foreign: Mapping[str, Any], names_of: NamesOf, *, strict: bool) -> Model:
    """Replaces every leaf of `model` by a foreign array of its shape, in its dtype.

    Args:
        model: What to fill; its leaves may be abstract, but for those that are kept.
        foreign: Arrays by foreign name.
        names_of: Where each leaf path of a model with its blocks on their own is in it.
        strict: If not, a classifier of another number of classes is left as it is in `model`,
            with a warning that says so.

    Raises:
        ValueError: Listing, all at once, leaves without an array, arrays without a leaf, shapes
            that disagree and arrays with NaN or infinity in them: the first of many.
    """
    plain = _as_named(model)
    names, leaves = names_of(plain), leaves_by_path(plain)
    wrong = {
        path: problem
        for path, leaf in leaves.items()
        if (problem := _problem(path, leaf, names[path], foreign))
    }
    kept = () if strict or not _replaced_classifier(leaves, names, foreign) else _CLASSIFIER
    problems = [problem for path, problem in wrong.items() if path not in kept]
    known = {leaf.name for leaf in names.values()}
    problems += [
        f"the model has nothing for {name!r}, shape {np.shape(array)}"
        for name, array in foreign.items()
        if name not in known
    ]
    if problems:
        raise ValueError(
            f"These {len(foreign)} arrays do not fit the model, which has {len(leaves)}:\n"
            + "".join(f"  {problem}\n" for problem in problems[:_LISTED])
            + (f"  and {len(problems) - _LISTED} more\n" if len(problems) > _LISTED else "")
            + "Is it the variant they were made for, with the same classes and channels?"
        )
    _warn_of_kept(kept, foreign, names, leaves)
    filled = [
        leaf if path in kept else _converted(foreign[names[path].name], names[path], leaf)
        for path, leaf in leaves.items()
    ]
    return stack_like(jax.tree.unflatten(jax.tree.structure(plain), filled), model)


def _converted(array: Any, where: ForeignLeaf, leaf: Any) -> jax.Array:
    return jnp.asarray(LAYOUTS[where.layout].from_foreign(np.asarray(array)), leaf.dtype)


def _replaced_classifier(
    leaves: Mapping[str, Any], names: Mapping[str, ForeignLeaf], foreign: Mapping[str, Any]
) -> bool:
    """Whether the foreign classifier is a sound one, on the same features, of other classes."""
    if not all(path in leaves and names[path].name in foreign for path in _CLASSIFIER):
        return False
    weight, bias = (np.asarray(foreign[names[path].name]) for path in _CLASSIFIER)
    if bias.ndim != 1 or bias.shape == leaves["head/bias"].shape:
        return False
    features = leaves["head/weight"].shape[0]
    like = jax.ShapeDtypeStruct((features, len(bias)), np.float32)
    where = names["head/weight"]
    return _problem("head/weight", like, where, {where.name: weight}) is None


def _warn_of_kept(
    kept: tuple[str, ...],
    foreign: Mapping[str, Any],
    names: Mapping[str, ForeignLeaf],
    leaves: Mapping[str, Any],
) -> None:
    if not kept:
        return
    if any(isinstance(leaves[path], jax.ShapeDtypeStruct) for path in kept):
        raise ValueError(
            f"{', '.join(kept)} cannot be left as they are: the model has shapes and no values. "
            "Give a model made by create_model."
        )
    classes = {path: np.shape(foreign[names[path].name]) for path in kept}
    warnings.warn(
        "Left as they are in the model: "
        + ", ".join(f"{path} {leaves[path].shape} (not {shape})" for path, shape in classes.items())
        + ".",
        stacklevel=4,
    )


def _problem(path: str, leaf: Any, where: ForeignLeaf, foreign: Mapping[str, Any]) -> str | None:
    name, layout = where
    if name not in foreign:
        return f"no {name!r} for {path!r}, shape {leaf.shape}"
    array = np.asarray(foreign[name])
    expected = LAYOUTS[layout].to_foreign(np.broadcast_to(np.float32(0), leaf.shape)).shape
    if array.shape != expected:
        transposed = sorted(array.shape) == sorted(expected)
        return f"{name!r} has shape {array.shape}, and {path!r} needs {expected}" + (
            ": it looks transposed" if transposed else ""
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return f"{name!r} has dtype {array.dtype}, and parameters are floating point"
    if not np.isfinite(array).all():
        return f"{name!r} has values that are not finite"
    return None
