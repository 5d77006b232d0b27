"""Layouts: the names of an array's axes, and which of them index output units."""

import functools as ft
from typing import NamedTuple


Units = tuple[int, ...]


class Layout(NamedTuple):
    """A layout that has been read.

    Attributes:
        text: As it was written, `"h w i o -> o"`.
        rank: How many axes it names.
        indices: Those that index units, counted from the first.
        stacks: Whether an array may have more axes before these.
    """

    text: str
    rank: int
    indices: tuple[int, ...]
    stacks: bool

    def fits(self, ndim: int) -> bool:
        """Whether an array with `ndim` axes can have this layout."""
        return ndim == self.rank or (self.stacks and ndim > self.rank)

    def units(self, ndim: int) -> Units:
        """Returns the axes that index units of an array with `ndim` axes, which must fit.

        Axes before the named ones stack arrays of this layout, and index units too. The last
        of several named axes is written `-1`, as people do.
        """
        stacked = ndim - self.rank
        own = (-1 if 0 < index == self.rank - 1 else stacked + index for index in self.indices)
        return (*range(stacked), *own)


@ft.cache
def parse_layout(text: str) -> Layout:
    """Reads a layout: the names of all axes, an arrow, the names of those that index units.

    Args:
        text: As `"h w i o -> o"` for a kernel with its outputs last, `"o i -> o"` for a matrix
            with its outputs first, `"c ->"` for a vector that is one unit as a whole, `"c -> c"`
            for one whose every entry is a unit. With `...` first, more axes may come before.

    Raises:
        ValueError: If it does not read so.
    """
    left, arrow, right = text.partition("->")
    names, units = left.split(), right.split()
    stacks = names[:1] == ["..."]
    names = names[stacks:]
    if not arrow or len(set(names)) < len(names) or not set(units) <= set(names):
        raise ValueError(
            f"Cannot read the layout {text!r}. Write the names of all axes, an arrow, and the "
            "names of those that index outputs, as 'h w i o -> o', 'o i -> o' or 'c ->'."
        )
    indices = tuple(names.index(name) for name in units)
    return Layout(text, len(names), indices, stacks)
