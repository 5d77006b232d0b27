"""Pickles of arrays, read without running anything that is in them.

Nothing that a pickle names is looked up: the few names that NumPy's arrays are pickled by stand
for the plain constructors below, and any other is refused.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class _Dtype:
    """Stands for `numpy.dtype`: of plain numbers only."""

    def __init__(self, name: Any, *_: Any):
        if not isinstance(name, str) or not re.fullmatch(r"[fiub]\d{1,2}", name):
            raise pickle.UnpicklingError(f"it holds an array of {name!r}, which is not of numbers")
        self._name, self._order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *structure = state
        if order not in ("<", ">", "=", "|") or any(part is not None for part in structure[:3]):
            raise pickle.UnpicklingError("it holds an array of records, which are not numbers")
        self._order = order

    def resolve(self) -> np.dtype:
        return np.dtype(self._order + self._name)


class _Array:
    """Stands for an array until its contents are known."""

    contents: np.ndarray | None = None

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.contents = _from_buffer(data, dtype, shape, "F" if is_fortran else "C").contents


def _from_buffer(
    data: Any,
    dtype: _Dtype,
    shape: tuple[int, ...],
    order: Any,
    axes: tuple[int, ...] | None = None,
) -> _Array:
    """The array of these bytes; of one with permuted axes (NumPy 2.4) the shape before that."""
    array = _Array()
    flat = np.frombuffer(bytes(data), dtype.resolve())
    contents = flat.reshape(shape, order="F" if order == "F" else "C")
    array.contents = contents.transpose(axes) if order == "K" and axes is not None else contents
    return array


def _scalar(dtype: _Dtype, data: bytes) -> _Array:
    return _from_buffer(data, dtype, (), "C")


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1" if encoding != "ascii" else "ascii")


def _no_bytes() -> bytes:
    return b""


# By the names that NumPy 1 and 2 pickle arrays under; `numpy.ndarray` is only ever named.
_STAND_INS: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): dict,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not an array")
        return _STAND_INS[module, name]


def unpickle_arrays(path: Path) -> dict[str, Any]:
    """Reads a pickled dictionary, possibly nested, of arrays of numbers.

    Raises:
        pickle.UnpicklingError: If there is anything else in it, or it is damaged.
    """
    try:
        with path.open("rb") as file:
            contents = _ArrayUnpickler(file).load()
        if not isinstance(contents, dict):
            raise pickle.UnpicklingError(f"it holds a {type(contents).__name__}, not a dictionary")
        return _resolve(contents)
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # damaged pickles raise of every kind
        raise pickle.UnpicklingError(f"it is damaged ({error!r})") from error


def _resolve(tree: dict[Any, Any]) -> dict[str, Any]:
    resolved: dict[str, Any] = {}
    for name, value in tree.items():
        found = _resolve(value) if isinstance(value, dict) else getattr(value, "contents", None)
        if not isinstance(name, str) or found is None:
            raise pickle.UnpicklingError(f"{name!r} is not the name of an array")
        resolved[name] = found
    return resolved
