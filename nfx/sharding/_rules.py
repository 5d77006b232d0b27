"""Where each leaf of a state lives: tables of patterns and specs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from nfx._tree import map_with_path, path_matches


class Rule(NamedTuple):
    """How the leaves whose paths match are split.

    Attributes:
        pattern: See `nfx._tree.path_matches`: `"conv0/weight"` is of a model, of its momentum and
            of its average.
        specs: In the order of preference: the first whose axes divide is taken. Each is aligned
            with the last axes of the leaf, so that a stacked leaf has the spec of its blocks.
    """

    pattern: str
    specs: tuple[P, ...]


Rules = tuple[Rule, ...]

REPLICATED: Rules = (Rule(".*", (P(),)),)

# Parameters, momentum and averages split by output unit, or where that does not divide, by input.
# Norms of units and standardization then need no sums over devices. Vectors are a thousandth of a
# network: gathering each would cost more than keeping it.
FULLY_SHARDED: Rules = (
    Rule("weight", (P("fsdp"), P("fsdp", None), P())),
    Rule(".*", (P(),)),
)


def partition_specs(tree: PyTree, axis_sizes: Mapping[str, int], *tables: Rules) -> PyTree[P]:
    """Returns the spec of each leaf.

    Args:
        tree: A pytree of arrays, which may be abstract.
        axis_sizes: Those of the mesh, `mesh.shape`. Axes that it does not have, or of size one,
            split nothing.
        *tables: The first rule of a table that matches a leaf is taken. What several tables say
            adds up, an axis of an array going over the axes of the mesh in that order.

    Raises:
        ValueError: If a leaf has no rule in a table, or none of its rule's specs divides.
    """

    def spec(path: str, leaf: PyTree) -> P:
        total = P()
        for table in tables:
            total = _add(path, leaf.shape, total, _rule(path, table), axis_sizes)
        return total

    return map_with_path(spec, tree)


def _rule(path: str, table: Rules) -> Rule:
    for rule in table:
        if path_matches(path, rule.pattern):
            return rule
    raise ValueError(
        f"No rule says how {path!r} is split; the patterns are "
        f"{', '.join(repr(rule.pattern) for rule in table)}. End the table with "
        "Rule('.*', (PartitionSpec(),)) to keep what is left whole."
    )


def _add(
    path: str, shape: Sequence[int], present: P, rule: Rule, axis_sizes: Mapping[str, int]
) -> P:
    problems = []
    for spec in rule.specs:
        is_idle = not any(axis_sizes.get(a, 1) > 1 for entry in spec for a in spec_axes(entry))
        if len(spec) > len(shape) and not is_idle:
            problems.append(f"{spec} has {len(spec)} entries and the leaf {len(shape)} axes")
            continue
        total = _merged(present, P() if is_idle else spec, len(shape), axis_sizes)
        problem = next(_indivisible(shape, total, axis_sizes), None)
        if problem is None:
            return total
        problems.append(problem)
    raise ValueError(
        f"{path!r}, of shape {tuple(shape)}, cannot be split as {rule.pattern!r} says: "
        f"{'; '.join(problems)}. Take a mesh that divides, or add PartitionSpec() to the rule."
    )


def _merged(present: P, more: P, ndim: int, axis_sizes: Mapping[str, int]) -> P:
    """Both specs in one, without the axes that split nothing: of size one, or not the mesh's."""
    aligned = [None] * (ndim - len(more)) + list(more)
    entries = []
    for first, second in zip(list(present) + [None] * (ndim - len(present)), aligned, strict=True):
        axes = (
            *spec_axes(first),
            *(axis for axis in spec_axes(second) if axis_sizes.get(axis, 1) > 1),
        )
        entries.append(axes if len(axes) > 1 else (axes[0] if axes else None))
    while entries and entries[-1] is None:
        entries.pop()
    return P(*entries)


def _indivisible(shape: Sequence[int], spec: P, axis_sizes: Mapping[str, int]) -> Iterator[str]:
    for dimension, (size, entry) in enumerate(zip(shape, spec, strict=False)):
        axes = spec_axes(entry)
        parts = math.prod(axis_sizes[axis] for axis in axes)
        if size % parts:
            yield f"its axis {dimension} of {size} does not divide over {'*'.join(axes)}={parts}"


def spec_axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the axes of the mesh in one entry of a spec."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def shards(spec: P, axis_sizes: Mapping[str, int]) -> int:
    """Returns into how many parts an array is split."""
    return math.prod(axis_sizes[axis] for entry in spec for axis in spec_axes(entry))
