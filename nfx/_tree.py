"""Leaf paths: the one name a parameter has everywhere in nfx."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import PyTree


def leaf_path(key_path: tuple[Any, ...]) -> str:
    """Renders a JAX key path as `"stages/0/blocks/1/conv0/weight"`."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def map_with_path(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Maps `fn(path, leaf, *rest_leaves)` over the leaves of `tree`."""
    return jax.tree_util.tree_map_with_path(
        lambda key_path, *leaves: fn(leaf_path(key_path), *leaves), tree, *rest
    )


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of `tree` by path, in the order of `jax.tree.leaves`."""
    return {leaf_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def as_patterns(patterns: str | Sequence[str]) -> tuple[str, ...]:
    """Returns one pattern, or several, as a tuple: a string is no sequence of patterns."""
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def path_matches(path: str, patterns: str | Sequence[str]) -> bool:
    """Whether a pattern matches `path`, or a suffix of it that starts at a component.

    `"head/weight"` matches `"head/weight"` and `"opt_state/0/trace/head/weight"`, and not
    `"overhead/weight"`: one table serves parameters and whatever mirrors them.

    Args:
        path: A leaf path.
        patterns: A regular expression, or several of which one must match.
    """
    return any(re.search(rf"(?:^|/)(?:{pattern})$", path) for pattern in as_patterns(patterns))


def check_patterns(patterns: Sequence[str], paths: Sequence[str], what: str) -> None:
    """Raises a `ValueError` if a pattern matches none of some paths.

    Args:
        patterns: See `path_matches`.
        paths: What they are to match.
        what: What the paths are of, as "leaves".
    """
    for pattern in patterns:
        if not any(path_matches(path, pattern) for path in paths):
            examples = [*paths[:3], *paths[3:][-3:]]
            raise ValueError(
                f"{pattern!r} matches none of the {len(paths)} {what}, such as "
                f"{', '.join(map(repr, examples))}."
            )


def mask_by_path(tree: PyTree, patterns: str | Sequence[str]) -> PyTree[bool]:
    """Returns a tree of booleans: which leaves of `tree` match one of `patterns`."""
    return map_with_path(lambda path, _: path_matches(path, patterns), tree)


def parameter_count(tree: PyTree) -> int:
    """Counts the numbers held by the leaves of `tree`, which may be abstract."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def replace_fields(module: Any, **fields: Any) -> Any:
    """Copies a module with other values in some fields, whatever its constructor takes.

    Raises:
        TypeError: If it has no such field.
    """
    if unknown := fields.keys() - vars(module).keys():
        raise TypeError(
            f"A {type(module).__name__} has no field {', '.join(map(repr, sorted(unknown)))}; its "
            f"fields are {', '.join(vars(module))}."
        )
    copy = object.__new__(type(module))
    for name, value in {**vars(module), **fields}.items():
        object.__setattr__(copy, name, value)
    return copy
