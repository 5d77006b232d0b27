"""Activations at any named point of a network, from the run that computes its output."""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from nfx._tree import as_patterns, check_patterns, leaf_path, path_matches


class _Record:
    """What one run computed, by path. Equal to itself alone, as a static field of JAX must be."""

    def __init__(self):
        self.outputs: dict[str, Any] = {}


def taps(
    model: PyTree,
    patterns: str | Sequence[str],
    *,
    call: Callable[..., Any] = lambda model, *args, **kwargs: model(*args, **kwargs),
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    r"""Returns a function that also returns the outputs of submodules, by path.

    >>> tapped = taps(model, r"stages/\d+/blocks/0/conv1")
    >>> logits, activations = tapped(image)
    >>> activations["stages/2/blocks/0/conv1"].shape
    (14, 14, 768)

    The function is as pure as the model and can be jitted, mapped and differentiated like it.
    A module that is called several times is seen at its last call. One that the model, or
    `call`, calls inside a transformation of JAX (`scan`, `vmap`, `jit`, `checkpoint`) cannot be
    tapped, and JAX says so; in a batch-normalized network these are the modules without
    normalization. Transform the tapped function instead.

    Args:
        model: Any pytree of modules.
        patterns: Of paths of modules: see `nfx._tree.path_matches`.
        call: What to run: `call(model, *args, **kwargs)`. By default the model itself.

    Raises:
        ValueError: If a pattern is that of no module that can be called; and from the function
            that is returned, if it ran without calling one of the modules.
    """
    patterns = as_patterns(patterns)
    points = module_paths(model)
    tapped_points = [point for point in points if path_matches(point, patterns)]
    check_patterns(patterns, points, f"modules (nfx.graph.module_paths) of {type(model).__name__}")

    def tapped(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        record = _Record()
        output = call(_tap(model, (), patterns, record), *args, **kwargs)
        if silent := [point for point in tapped_points if point not in record.outputs]:
            raise ValueError(f"The run did not call {', '.join(map(repr, silent))}.")
        return output, record.outputs

    return tapped


def module_paths(model: PyTree) -> list[str]:
    """Returns the paths of the submodules that can be tapped, outermost first."""

    def visit(node: PyTree, key_path: tuple[Any, ...]) -> list[str]:
        children, _ = _children(node)
        below = [path for key, child in children for path in visit(child, (*key_path, *key))]
        return [leaf_path(key_path), *below] if _is_point(node, key_path) else below

    return visit(model, ())


def _children(node: PyTree) -> tuple[list[tuple[Any, Any]], Any]:
    """The nodes directly below one, with their keys, and how to put them back."""
    if jax.tree_util.all_leaves([node]):
        return [], None
    return jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)


def _tap(
    node: PyTree, key_path: tuple[Any, ...], patterns: tuple[str, ...], record: _Record
) -> PyTree:
    """Copies a tree with its tapped modules recording what they return."""
    children, structure = _children(node)
    if structure is None:
        return node
    tapped = [_tap(child, (*key_path, *key), patterns, record) for key, child in children]
    rebuilt = jax.tree.unflatten(structure, tapped)
    path = leaf_path(key_path)
    if _is_point(node, key_path) and path_matches(path, patterns):
        return _recording(rebuilt, path, record)
    return rebuilt


def _is_point(node: PyTree, key_path: tuple[Any, ...]) -> bool:
    return bool(key_path) and isinstance(node, eqx.Module) and callable(node)


def _recording(module: Any, path: str, record: _Record) -> Any:
    """A copy of a module, of a subclass whose calls are recorded.

    The module keeps its fields and methods, so whatever holds it notices nothing; the record
    belongs to one run, so nothing is shared between runs.
    """
    fields = dict(vars(module))
    others = fields.pop("_taps", ())  # of a function within whose run this one runs
    kind = type(module) if others else _recording_class(type(module))
    copy = object.__new__(kind)
    for name, value in (fields | {"_taps": (*others, (path, record))}).items():
        object.__setattr__(copy, name, value)
    return copy


@ft.cache  # one a type: JAX never forgets a class of pytrees
def _recording_class(module_class: type) -> type:
    class Recording(module_class):
        # A field, so that the copy remains what it is when it is flattened and put together.
        _taps: tuple[tuple[str, _Record], ...] = eqx.field(static=True, default=())

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            output = super().__call__(*args, **kwargs)
            for path, record in self._taps:
                record.outputs[path] = output
            return output

    return Recording
