"""Which axes of each leaf index output units.

A unit is what adaptive gradient clipping takes the norm of: all the weights that feed one
output. The layout decides where it is (last axis of `HWIO`, first of `OIHW`), and only the
module that owns a leaf knows its layout; a rank does not tell. The official code goes by rank,
and takes a kernel with a single input, `(1, 1, 1, O)` or `(1, O)`, for one unit, where this
finds `O`; no published model has one.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import PyTree

from nfx._layout import Layout, parse_layout, Units
from nfx._tree import leaf_path, path_matches


# Layouts of the fields of a module, as `parse_layout` reads them.
Declaration = Mapping[str, str]


def unit_axes(tree: PyTree, overrides: Mapping[str, Units | str] | None = None) -> PyTree[Units]:
    """Returns, for each leaf, the axes that index its units.

    A norm over a unit reduces every other axis. `(-1,)` is a kernel with its outputs last,
    `(0, -1)` the same stacked for `scan`, `()` a leaf that is one unit as a whole.

    A module says so for its own fields, in one line, and its subclasses inherit it:

    >>> class Scale(eqx.Module):
    ...     unit_axes: ClassVar = {"weight": "i o -> o", "bias": "o ->"}
    ...     weight: Array
    ...     bias: Array

    The layout names the axes of an array, and after the arrow those that index units. Axes that
    a leaf has before these, as in a stack of modules made by `jax.vmap`, index modules, and so
    units too.

    Args:
        tree: A pytree of modules: parameters, or gradients of the same structure.
        overrides: Layouts, or axes, by path pattern (see `nfx._tree.path_matches`); they are
            taken before what the modules say. The way to declare plain dictionaries. Such a
            layout names all axes, or begins with `...` for any number that index modules.

    Returns:
        A pytree with the structure of `tree` whose leaves are tuples of axes.

    Raises:
        ValueError: Listing every array that no module and no override declares, or that has
            other axes than declared.
    """
    found, problems = [], []
    for path, leaf, layout in _declared_leaves(tree, overrides or {}):
        if not hasattr(leaf, "shape"):
            found.append(())
        elif layout is None:
            problems.append(f"  {path}  {tuple(leaf.shape)}")
        elif not isinstance(layout, Layout):
            found.append(layout)
        elif layout.fits(leaf.ndim):
            found.append(layout.units(leaf.ndim))
        else:
            problems.append(f"  {path}  {tuple(leaf.shape)} is declared as {layout.text!r}")
    if problems:
        raise ValueError(
            "Nobody declares the units of these arrays, and a guess from their rank would be "
            "silently wrong for some layout:\n" + "\n".join(problems) + "\nGive the class that "
            'owns them `unit_axes: ClassVar = {"weight": "i o -> o"}` (its axes, and those of '
            'the outputs), or pass overrides={"path/pattern": "i o -> o"}.'
        )
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def tensor_axes(tree: PyTree) -> PyTree[Units]:
    """Returns, for each leaf, the axes that make every tensor one unit: `()`.

    In a stack of modules each module's tensor is one unit: `(0,)`. See `unit_axes`.
    """
    found = [
        tuple(range(leaf.ndim - layout.rank))
        if isinstance(layout, Layout) and hasattr(leaf, "shape")
        else ()
        for _, leaf, layout in _declared_leaves(tree, {})
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), found)


class LeafUnits(NamedTuple):
    """The units of a leaf.

    Attributes:
        path: Of the leaf.
        axes: Those that index units.
        number: How many units there are.
    """

    path: str
    axes: Units
    number: int


def list_units(tree: PyTree, units: PyTree) -> list[LeafUnits]:
    """Lists the units of the leaves of `tree`, in order; `units` is as `unit_axes` returns it.

    Raises:
        ValueError: If an entry of `units` is no tuple of axes of its leaf.
    """
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [
        _leaf_units(leaf_path(key_path), leaf, axes)
        for (key_path, leaf), axes in zip(
            paths_and_leaves, structure.flatten_up_to(units), strict=True
        )
    ]


def _leaf_units(path: str, leaf: Any, axes: Any) -> LeafUnits:
    shape: Any = getattr(leaf, "shape", ())
    ndim = len(shape)
    if not (
        isinstance(axes, tuple)
        and all(isinstance(axis, int) and -ndim <= axis < ndim for axis in axes)
        and len({axis % ndim for axis in axes}) == len(axes)
    ):
        raise ValueError(
            f"The units of {path!r}, of shape {shape}, are given as {axes!r}, and must be a tuple "
            "of its axes, as (-1,) for outputs that come last; () makes it one unit."
        )
    return LeafUnits(path, axes, math.prod(shape[axis] for axis in axes))


def _declared_leaves(
    tree: PyTree, overrides: Mapping[str, Units | str]
) -> Iterator[tuple[str, Any, Layout | Units | None]]:
    """Each leaf with its path and what is declared of it: a layout, axes, or nothing."""
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = leaf_path(key_path)
        pattern = next((pattern for pattern in overrides if path_matches(path, pattern)), None)
        if pattern is None:
            yield path, leaf, _declared_by_owner(tree, key_path)
        else:
            units = overrides[pattern]
            yield path, leaf, parse_layout(units) if isinstance(units, str) else units


def _declared_by_owner(tree: PyTree, key_path: tuple[Any, ...]) -> Layout | None:
    node = tree
    for key in key_path:
        if isinstance(key, jax.tree_util.GetAttrKey):
            declaration = _declaration(node)
            if key.name in declaration:
                return _read_declaration(type(node), key.name, declaration[key.name])
        node = _child(node, key)
        if node is None:  # inside of a class that does not name its children
            return None
    return None


def _read_declaration(owner: type, field: str, text: object) -> Layout:
    """The layout of a field; a module may be in a stack, and so have axes before it."""
    try:
        return parse_layout(str(text))._replace(stacks=True)
    except ValueError as error:
        raise ValueError(f"{error} It is `unit_axes` of {field!r} in {owner.__name__}.") from None


def _child(node: Any, key: Any) -> Any:
    match key:
        case jax.tree_util.GetAttrKey(name=name):
            return getattr(node, name)
        case jax.tree_util.SequenceKey(idx=index):
            return node[index]
        case jax.tree_util.DictKey(key=name):
            return node[name]
    return None


def _declaration(module: Any) -> Mapping[str, Any]:
    """What a module's class and those it inherits from say of its fields."""
    merged: dict[str, Any] = {}
    for base in reversed(type(module).__mro__):
        if base in EQUINOX_LAYERS:
            merged |= EQUINOX_LAYERS[base](module)
        declared = vars(base).get("unit_axes")
        if isinstance(declared, Mapping):
            merged |= declared
    return merged


def _axes(count: int) -> str:
    return " ".join(f"x{index}" for index in range(count))


def _conv(layer: Any) -> Declaration:
    pixels = _axes(layer.num_spatial_dims)
    return {"weight": f"o i {pixels} -> o", "bias": f"o {pixels} ->"}


def _whole_of_shape(layer: Any) -> Declaration:
    layout = f"{_axes(len(layer.shape))} ->"
    return {"weight": layout, "bias": layout}


def _weight_norm(layer: Any) -> Declaration:
    weight = _declaration(layer.layer).get(layer.weight_name)
    return {} if weight is None else {"g": f"{_axes(parse_layout(weight).rank)} ->"}


_VECTORS = {"weight": "c ->", "bias": "c ->"}
_RECURRENT = {"weight_ih": "o i -> o", "weight_hh": "o i -> o", "bias": "o ->", "bias_n": "o ->"}

# The layers of Equinox cannot declare their own units, so this table does, by class. Weights are
# output first; vectors are one unit, as the official code clips its own. Of an embedding each
# entry is a unit. Classes that only hold others, as `MultiheadAttention`, need no row.
EQUINOX_LAYERS: Mapping[type, Callable[[Any], Declaration]] = MappingProxyType({
    eqx.nn.Linear:        lambda layer: {"weight": "o i -> o", "bias": "o ->"},
    eqx.nn.Conv:          _conv,
    eqx.nn.ConvTranspose: _conv,
    eqx.nn.Embedding:     lambda layer: {"weight": "n c -> n"},
    eqx.nn.GRUCell:       lambda layer: _RECURRENT,
    eqx.nn.LSTMCell:      lambda layer: _RECURRENT,
    eqx.nn.LayerNorm:     _whole_of_shape,
    eqx.nn.RMSNorm:       _whole_of_shape,
    eqx.nn.GroupNorm:     lambda layer: _VECTORS,
    eqx.nn.BatchNorm:     lambda layer: _VECTORS,
    eqx.nn.PReLU:         lambda layer: {"negative_slope": "->"},  # one a channel: each a unit
    eqx.nn.WeightNorm:    _weight_norm,
})  # fmt: skip
