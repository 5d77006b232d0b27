"""Arrays to try laws on: small, quick to draw, and simple once they are shrunk.

Arrays are read off a string of bytes, one an entry and one a unit for its scale. Hypothesis draws
and shrinks such strings fast, and the zero byte stands for the simplest value.
"""

from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
from hypothesis.strategies import SearchStrategy

from nfx._layout import Units


# From simple to odd, on both sides of zero.
_ENTRIES = np.asarray(
    [0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 5, -5, *np.linspace(-4, 4, 245)], np.float32
)

# A case of Hypothesis holds 8 KB, and may have four trees in it. Larger trees are drawn by a seed,
# and their counterexamples do not shrink.
_MOST_BYTES = 1_500

# What the entries of a unit are multiplied by. Simple first, so that shrinking ends there.
ORDINARY_SCALES = (1.0, 0.1, 10.0, 0.01, 1e-3, 1e-4, 1e-6, 1e-8, 100.0, 1e4, 0.0)
EXTREME_SCALES = (1.0, 0.01, 1e25, 1e-25, 1e12, 1e-12, 1e-3, 0.0)
HALF_SCALES = (1.0, 100.0, 0.1, 0.01, 0.0)
NONFINITE_SCALES = (1.0, np.nan, 0.01, np.inf, -np.inf)


def show_numbers(x: np.ndarray) -> str:
    """Shows as many digits as a violation of a law by 1e-5 takes to be seen."""
    return np.array2string(x, precision=8, threshold=12)


def array_strategy(
    shape: Sequence[int], units: Units, scales: Sequence[float] = ORDINARY_SCALES
) -> SearchStrategy[np.ndarray]:
    """Draws float32 arrays whose units differ in scale by orders of magnitude.

    Args:
        shape: Of the arrays.
        units: The axes that index units.
        scales: What entries between -5 and 5 are multiplied by, one scale a unit.
    """
    return arrays_strategy([shape], [units], scales).map(lambda arrays: arrays[0])


def arrays_strategy(
    shapes: Sequence[Sequence[int]], units: Sequence[Units], scales: Sequence[float]
) -> SearchStrategy[list[np.ndarray]]:
    """Draws one array a shape: see `array_strategy`. One string serves all, which is quick."""
    layouts = list(zip(shapes, units, strict=True))
    sizes = [int(np.prod(shape)) + unit_count(shape, axes) for shape, axes in layouts]
    stops = np.cumsum(sizes)
    total = int(stops[-1])

    def build(data: bytes) -> list[np.ndarray]:
        parts = np.split(np.frombuffer(data, np.uint8), stops[:-1])
        return [
            _from_bytes(part, *layout, scales) for part, layout in zip(parts, layouts, strict=True)
        ]

    if total > _MOST_BYTES:
        seeds = st.integers(0, 2**32 - 1)
        return seeds.map(lambda seed: build(np.random.default_rng(seed).bytes(total)))
    return st.binary(min_size=total, max_size=total).map(build)


def by_unit(x: np.ndarray, units: Units) -> np.ndarray:
    """Returns `x` with a row for each unit."""
    kept = [axis % x.ndim for axis in units]
    reduced = [axis for axis in range(x.ndim) if axis not in kept]
    return x.transpose(*kept, *reduced).reshape(unit_count(x.shape, units), -1)


def unit_count(shape: Sequence[int], units: Units) -> int:
    """Returns the number of units in an array."""
    return int(np.prod([shape[axis] for axis in units]))


def spread_over(values: np.ndarray, shape: Sequence[int], units: Units) -> np.ndarray:
    """Returns one value a unit with the axes that broadcast it over an array of `shape`."""
    kept = {axis % len(shape) for axis in units}
    return values.reshape([size if axis in kept else 1 for axis, size in enumerate(shape)])


def _from_bytes(
    data: np.ndarray, shape: Sequence[int], units: Units, scales: Sequence[float]
) -> np.ndarray:
    entries, chosen = np.split(data, [int(np.prod(shape))])
    factors = np.asarray(scales, np.float32)[chosen % len(scales)]
    with np.errstate(invalid="ignore"):  # zero times infinity is a fine entry
        return _ENTRIES[entries].reshape(shape) * spread_over(factors, shape, units)
