"""The charts of a report, as SVG in which text stays text."""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nfx._units import LeafUnits
from nfx.recipes._report._html import Html
from nfx.train import draw_clipped_shares


# Okabe and Ito's colors, which people tell apart whose eyes see fewer.
BLUE, ORANGE, GREEN, RED, GRAY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6B7280"

# Inches. A chart is as wide as half a page, or a phone, and a wide one as the page.
_CHART, _WIDE = (4.8, 2.8), 10.8

# Points of a line, and columns of a picture: those of more records are means of some.
_MOST_POINTS, _MOST_COLUMNS = 600, 300

_STYLE: Mapping[Any, Any] = MappingProxyType({
    "svg.fonttype": "none",
    "svg.hashsalt": "nfx",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9CA3AF",
    "axes.labelcolor": "#374151",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E7EB",
    "xtick.color": "#4B5563",
    "ytick.color": "#4B5563",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
})  # fmt: skip


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
        label: What it is, for the legend.
        values: By step.
        color: Of the line.
        noisy: Whether to draw it pale, under its running mean.
        points: Whether to mark each value.
    """

    label: str
    values: Mapping[int, float]
    color: str
    noisy: bool = False
    points: bool = False


def line_chart(
    name: str,
    lines: Sequence[Line],
    *,
    ylabel: str,
    scale: str = "linear",
    percent: bool = False,
    from_zero: bool = False,
) -> Html:
    """Draws lines over the steps of a run.

    Args:
        name: What to call the chart, unique on the page.
        lines: The lines.
        ylabel: What the values are, and their unit.
        scale: Of the values: "linear" or "log".
        percent: Whether they are shares, to show in percent.
        from_zero: Whether the axis begins at zero.
    """

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for line in lines:
            _paint_line(axes, line)
        axes.set(xlabel="step", ylabel=ylabel)
        _scale(axes, scale)
        if from_zero:
            axes.set_ylim(0, 1.08 * axes.dataLim.y1 or 1)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.xaxis.set_major_formatter(_number)
        if len(lines) > 1:
            axes.legend()

    return _svg(name, f"{ylabel} by step", _CHART, paint)


def depth_chart(
    name: str,
    places: Sequence[str],
    lines: Mapping[str, np.ndarray],
    *,
    ylabel: str,
) -> Html:
    """Draws statistics through the depth of a network, on a scale of powers.

    Args:
        name: What to call the chart, unique on the page.
        places: Names of the places, in order: "2.1" is the first block of the second stage.
        lines: Values at the places, before and after training, by label.
        ylabel: What they are.
    """

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        looks = ({"color": ORANGE, "ls": "--", "marker": "s"}, {"color": BLUE, "marker": "o"})
        # What is shown alone is as it is after training.
        for (label, values), look in zip(lines.items(), looks[-len(lines) :], strict=True):
            axes.plot(range(len(places)), values, label=label, ms=3.5, **look)
        axes.set(xlabel="stage.block", ylabel=ylabel)
        _scale(axes, "log")
        ticks = np.unique(np.linspace(0, len(places) - 1, min(len(places), 13)).astype(int))
        axes.set_xticks(ticks, [places[tick] for tick in ticks])
        axes.legend()

    return _svg(name, f"{ylabel} through depth", _CHART, paint)


def clipping_picture(
    name: str, records: Sequence[Mapping[str, Any]], leaves: Sequence[LeafUnits]
) -> Html:
    """Draws the share of each leaf's units that were clipped, by step.

    Args:
        name: What to call the chart, unique on the page.
        records: Records of metrics that have these shares.
        leaves: What is clipped.
    """
    steps = np.asarray([record["step"] for record in records])
    shares = np.asarray([record["clipped_share_of_leaf"] for record in records])
    columns = [
        {"step": step, "clipped_share_of_leaf": row}
        for step, row in zip(*thinned(steps, shares, _MOST_COLUMNS), strict=True)
    ]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        image = draw_clipped_shares(axes, columns, leaves, names=60)
        axes.grid(False)
        axes.xaxis.set_major_formatter(_number)
        bar = figure.colorbar(image, ax=axes, label="share of the leaf's units clipped", pad=0.01)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")

    height = 1 + 0.13 * min(len(leaves), 60)
    return _svg(name, "share of units clipped by leaf and step", (_WIDE, height), paint)


def _paint_line(axes: Any, line: Line) -> None:
    steps, values = np.asarray(list(line.values)), np.asarray(list(line.values.values()))
    steps, values = thinned(steps, values, _MOST_POINTS)
    look = {"color": line.color, "label": line.label}
    window = len(values) // 40
    if not line.noisy or window < 2:
        axes.plot(
            steps, values, marker="o" if line.points or len(values) == 1 else "", ms=4, **look
        )
        return
    axes.plot(steps, values, color=line.color, alpha=0.3, lw=0.8)
    axes.plot(steps, _running_mean(values, window), **look)


def _number(value: float, _: object) -> str:
    return f"{value:,g}"


def _scale(axes: Any, scale: str) -> None:
    """Sets the scale of the values, with numbers at its ticks that are written out."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    if scale == "log":
        low, high = axes.dataLim.intervaly
        subs = (1, 2, 5) if high < 1000 * low else (1,)
        narrow = high < 10 * low
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(MaxNLocator(5) if narrow else LogLocator(subs=subs))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(_number)


def thinned(steps: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, or the means of equal parts of them if they are more than that."""
    if len(steps) <= most:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), most)
    means = [(steps[part].mean(), values[part].mean(axis=0)) for part in parts]
    return np.asarray([step for step, _ in means]), np.asarray([value for _, value in means])


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the values around each; of fewer at the ends."""
    weights = np.ones(2 * (window // 2) + 1)
    count = np.convolve(np.ones(len(values)), weights, "same")
    return np.convolve(values, weights, "same") / count


def _svg(name: str, words: str, size: tuple[float, float], paint: Callable[[Any], None]) -> Html:
    """Draws a figure as an element that is as wide as its place, with names of its own."""
    from matplotlib import rc_context  # an extra, and slow to import
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context({**_STYLE}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has them
        figure = Figure(figsize=size, layout="constrained", dpi=100)
        paint(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    for reference in ('id="', 'href="#', "url(#"):
        text = text.replace(reference, f"{reference}{name}-")
    size_free = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return Html(size_free.replace("<svg", f'<svg role="img" aria-label="{words}"', 1))
