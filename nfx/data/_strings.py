"""Millions of strings in the memory of their characters."""

import os
from array import array
from collections.abc import Iterable, Sequence
from typing import overload


class Strings(Sequence[str]):
    """A list of strings that is kept as one run of bytes.

    A Python list takes some 90 bytes for a file's name of 30; this takes 38. Names that are no
    UTF-8 survive, as in `os`.
    """

    def __init__(self, strings: Iterable[str] = ()):
        """Holds the given strings, in their order."""
        self._bytes = bytearray()
        self._ends = array("q", [0])
        self.extend(strings)

    def extend(self, strings: Iterable[str]) -> None:
        """Appends strings."""
        for string in strings:
            self._bytes += os.fsencode(string)
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        """Number of strings."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """The string at `index`, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} strings")
        index %= len(self)
        return os.fsdecode(bytes(self._bytes[self._ends[index] : self._ends[index + 1]]))
