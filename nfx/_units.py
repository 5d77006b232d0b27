"""Which axes of each leaf index output units.

A unit is what adaptive gradient clipping takes the norm of: all the weights that feed one
output. The layout decides where it is (last axis of `HWIO`, first of `OIHW`), and only the
module that owns a leaf knows its layout; a rank does not tell. The official code goes by rank,
and takes a kernel with a single input, `(1, 1, 1, O)` or `(1, O)`, for one unit, where this
finds `O`; no published model has one.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from nfx._tree import leaf_path, path_matches


Units = tuple[int, ...]
Declaration = Mapping[str, Units]

# The layers of Equinox cannot declare their own units, so this table does. Weights are
# output first; vectors are clipped whole, as the official code clips its own.
_EQUINOX_LAYERS: Mapping[type, Declaration] = MappingProxyType({
    eqx.nn.Linear:        {"weight": (0,), "bias": ()},
    eqx.nn.Conv:          {"weight": (0,), "bias": ()},
    eqx.nn.ConvTranspose: {"weight": (0,), "bias": ()},
    eqx.nn.Embedding:     {"weight": (0,)},
    eqx.nn.LayerNorm:     {"weight": (),   "bias": ()},
    eqx.nn.RMSNorm:       {"weight": (),   "bias": ()},
    eqx.nn.GroupNorm:     {"weight": (),   "bias": ()},
})  # fmt: skip


def unit_axes(tree: PyTree, overrides: Mapping[str, Units] | None = None) -> PyTree[Units]:
    """Returns, for each leaf, the axes that index its units.

    A norm over a unit reduces every other axis. `(-1,)` is a kernel with its outputs last,
    `(0, -1)` the same stacked for `scan`, `()` a leaf that is one unit as a whole.

    A module says so for its own fields, in one line, and its subclasses inherit it:

    >>> class Scale(eqx.Module):
    ...     unit_axes: ClassVar = {"weight": (-1,)}
    ...     weight: Array

    Args:
        tree: A pytree of modules: parameters, or gradients of the same structure.
        overrides: Axes by path pattern (see `nfx._tree.path_matches`), taken before what
            the modules say. The way to declare plain dictionaries.

    Returns:
        A pytree with the structure of `tree` whose leaves are tuples of axes.

    Raises:
        ValueError: Listing every array that no module and no override declares.
    """
    overrides = overrides or {}
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    found = [_units_of(tree, key_path, leaf, overrides) for key_path, leaf in paths_and_leaves]
    undeclared = [
        f"  {leaf_path(key_path)}  {tuple(leaf.shape)}"
        for (key_path, leaf), units in zip(paths_and_leaves, found, strict=True)
        if units is None
    ]
    if undeclared:
        raise ValueError(
            "Nobody declares the units of these arrays, and a guess from their rank would be "
            "silently wrong for some layout:\n" + "\n".join(undeclared) + "\nGive the class that "
            'owns them `unit_axes: ClassVar = {"weight": (-1,)}` (the axes of the outputs), or '
            'pass overrides={"path/pattern": (-1,)}.'
        )
    return jax.tree.unflatten(structure, found)


def _units_of(
    tree: PyTree, key_path: tuple[Any, ...], leaf: Any, overrides: Mapping[str, Units]
) -> Units | None:
    """The units of one leaf, or None if it is an array that nobody declares."""
    for pattern, units in overrides.items():
        if path_matches(leaf_path(key_path), pattern):
            return units
    node = tree
    for key in key_path:
        declaration = _declaration(type(node))
        if isinstance(key, jax.tree_util.GetAttrKey) and key.name in declaration:
            return declaration[key.name]
        node = _child(node, key)
    return None if hasattr(leaf, "shape") else ()


def _declaration(owner: type) -> Declaration:
    """What a class says of its fields: itself, or the table of Equinox's layers for it."""
    declared = getattr(owner, "unit_axes", None)
    if isinstance(declared, Mapping):
        return declared
    return next((_EQUINOX_LAYERS[base] for base in owner.__mro__ if base in _EQUINOX_LAYERS), {})


def _child(node: Any, key: Any) -> Any:
    match key:
        case jax.tree_util.GetAttrKey(name=name):
            return getattr(node, name)
        case jax.tree_util.SequenceKey(idx=index):
            return node[index]
        case jax.tree_util.DictKey(key=name):
            return node[name]
    return None
