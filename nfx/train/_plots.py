"""Pictures of a run, where matplotlib is installed."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfx._units import LeafUnits
from nfx.train._metrics import read_metrics
from nfx.train._run_directory import writing


def plot_clipping(directory: str | Path, leaves: Sequence[LeafUnits]) -> Path | None:
    """Draws what adaptive gradient clipping did in a run, into its `clipping.png`.

    Above: the share of all units that were clipped, and the largest ratio of gradient norm to
    parameter norm. Below: the share of each leaf's units that were clipped, kernels first, then
    gains and so on, each in the order of the network.

    Args:
        directory: The run directory; its `metrics.jsonl` is read.
        leaves: What is clipped: see `nfx.optim.clipped_leaves`.

    Returns:
        The picture's path; None if nothing was clipped or matplotlib is not installed.

    Raises:
        RunDirectoryError: If it cannot be written.
    """
    records = [record for record in read_metrics(directory) if "clipped_share_of_leaf" in record]
    if not records or not importlib.util.find_spec("matplotlib"):
        return None
    path = Path(directory) / "clipping.png"
    figure = _draw(records, leaves)
    with writing(path):
        figure.savefig(path)
    return path


def _draw(records: Sequence[dict[str, Any]], leaves: Sequence[LeafUnits]) -> Any:
    from matplotlib.figure import Figure  # an extra, and slow to import

    steps = [record["step"] for record in records]
    figure = Figure(figsize=(10, 8), layout="constrained", dpi=120)
    above, below = figure.subplots(2, sharex=True, height_ratios=(1, 3))
    above.plot(steps, [record["clipped_share"] for record in records], color="C0")
    above.set(ylabel="share of units clipped", ylim=(0, None))
    above.yaxis.label.set_color("C0")
    ratio = above.twinx()
    ratio.plot(steps, [record["largest_clip_ratio"] for record in records], color="C1", lw=0.8)
    ratio.set(ylabel="largest |g| / max(|w|, eps)", yscale="log")
    ratio.yaxis.label.set_color("C1")

    image = draw_clipped_shares(below, records, leaves)
    figure.colorbar(image, ax=below, label="share of the leaf's units clipped")
    return figure


def draw_clipped_shares(
    axes: Any, records: Sequence[dict[str, Any]], leaves: Sequence[LeafUnits], *, names: int = 30
) -> Any:
    """Draws the share of each leaf's units that were clipped, by step.

    Kernels come first, then gains and so on, each in the order of the network.

    Args:
        axes: Axes of matplotlib to draw on.
        records: Records of metrics that have these shares.
        leaves: What is clipped: see `nfx.optim.clipped_leaves`.
        names: How many leaves to name at most.

    Returns:
        The picture, for a color bar.
    """
    steps = [record["step"] for record in records]
    kinds = list(dict.fromkeys(_kind(leaf) for leaf in leaves))
    order = sorted(range(len(leaves)), key=lambda index: kinds.index(_kind(leaves[index])))
    shares = np.asarray([record["clipped_share_of_leaf"] for record in records]).T[order]
    image = axes.pcolormesh(
        steps, np.arange(len(leaves)), shares, vmin=0, vmax=1, cmap="magma", shading="nearest",
        rasterized=True,
    )  # fmt: skip
    for row in range(1, len(leaves)):
        if _kind(leaves[order[row]]) != _kind(leaves[order[row - 1]]):
            axes.axhline(row - 0.5, color="white", lw=2)
    ticks = np.unique(np.linspace(0, len(leaves) - 1, min(len(leaves), names)).astype(int))
    axes.set_yticks(ticks, [leaves[order[row]].path for row in ticks], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="step")
    return image


def _kind(leaf: LeafUnits) -> str:
    """What a leaf is called in its module: `"weight"`, `"gain"`."""
    return leaf.path.rpartition("/")[2]
