"""Signal propagation plots."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from nfx.analysis._signal import SignalPropagation


# The three panels of the paper's plots.
_PANELS: Mapping[str, str] = MappingProxyType({
    "squared_mean":      "average squared channel mean",
    "variance":          "average channel variance",
    "residual_variance": "residual branch variance",
})  # fmt: skip

# Below it, a value is zero but for rounding.
_LEAST = 1e-6


def plot_signal(
    signals: Mapping[str, SignalPropagation],
    places: Sequence[str],
    *,
    expected: Mapping[str, Any] | None = None,
    title: str = "",
) -> Any:
    """Draws how mean and variance go through the depth of networks, on scales of powers.

    It needs `pip install 'nfx[plots]'`.

    Args:
        signals: What was measured, by label.
        places: Their places, the same for all: see `block_places`.
        expected: Variances to draw as crosses, by label: see `expected_signal`.
        title: Of the figure.

    Returns:
        A `matplotlib.figure.Figure`; `savefig` writes it.

    References:
        Brock, De & Smith (2021), arXiv:2101.08692, figures 1 to 3.
    """
    from matplotlib.figure import Figure  # an extra, and slow to import

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, (field, label) in zip(figure.subplots(1, 3), _PANELS.items(), strict=True):
        for name, signal in signals.items():
            values = np.maximum(np.asarray(getattr(signal, field)), _LEAST)
            axes.plot(places[-len(values) :], values, label=name, marker="o", ms=3, lw=1.3)
        for name, values in (expected or {}).items() if field == "variance" else ():
            axes.plot(places, values, "x", label=name, color="#374151", ms=5)
        axes.set(yscale="log", xlabel="stage.block")
        axes.set_title(label, fontsize=9)
        shown = places[-len(signals[next(iter(signals))].residual_variance) :]
        ticks = np.unique(np.linspace(0, len(shown) - 1, min(len(shown), 10)).astype(int))
        axes.set_xticks([shown[tick] for tick in ticks])
        axes.tick_params(labelsize=7, which="both")
        axes.grid(color="#E5E7EB")
    figure.axes[1].legend(fontsize=7)
    figure.suptitle(title, fontsize=10)
    return figure
