"""The sections of a report that are drawn: how training went, and what goes on in the network."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nfx._units import LeafUnits
from nfx.recipes._report._content import RunReport
from nfx.recipes._report._figures import (
    BLUE,
    clipping_picture,
    depth_chart,
    GRAY,
    GREEN,
    Line,
    line_chart,
    ORANGE,
    RED,
)
from nfx.recipes._report._findings import Findings
from nfx.recipes._report._html import Html, join, tag
from nfx.recipes._report._tables import table


# Leaves that are listed by name, of those that are clipped most.
_LISTED = 10

_ROWS = (
    "Each row is a leaf of the model: kernels first, then gains, biases and so on, each in the "
    "order of the network."
)

_SIGNAL = (
    "Statistics over test images, averaged over channels: after the stem and after each block, and "
    "of each block's residual branch before it is scaled. What to look for are means or variances "
    "that grow or vanish by orders of magnitude from block to block. Before training, steps down "
    "where a stage begins are average pooling."
)


def curves(found: RunReport) -> Html:
    """Draws loss, accuracy, learning rate and gradient norm."""
    training, evaluations = found.training, found.evaluations
    if not training:
        return tag("p", "Nothing is recorded yet.")
    loss = [Line("training", _values(training, "loss"), GRAY, noisy=True)]
    if evaluations:
        loss.append(Line("test, averaged", _values(evaluations, "test_loss"), BLUE, points=True))
    rate = [Line("", _values(training, "learning_rate"), GREEN)]
    norm = [Line("", _values(training, "gradient_norm"), RED, noisy=True)]
    smoothing = found.recipe.label_smoothing
    words = (
        "Pale lines are what was recorded, full lines their running mean. The training loss is "
        f"that of augmented images, with labels smoothed by {smoothing:g}; the test loss is "
        "without either."
    )
    charts = [
        line_chart("loss", loss, ylabel="cross-entropy"),
        _accuracy_chart(evaluations),
        line_chart("rate", rate, ylabel="learning rate", from_zero=True),
        line_chart("norm", norm, ylabel="gradient norm, before clipping", scale="log"),
    ]
    return join(tag("p", words), _side_by_side(charts))


def _accuracy_chart(evaluations: Sequence[Mapping[str, Any]]) -> Html:
    if not evaluations:
        return tag("p", "It was not evaluated yet.")
    lines = [
        Line(label, _values(evaluations, name), color, points=True)
        for label, name, color in (
            ("averaged parameters", "test_accuracy", BLUE),
            ("raw parameters", "test_accuracy_raw", ORANGE),
        )
    ]
    return line_chart("accuracy", lines, ylabel="test accuracy", percent=True)


def clipping(found: RunReport) -> Html:
    """Draws what adaptive gradient clipping did, over time and by leaf."""
    records = [record for record in found.training if "clipped_share_of_leaf" in record]
    if found.recipe.clipping is None:
        return tag("p", 'The run does not clip: its recipe has clipping = "none".')
    if not records:
        return tag("p", "What is clipped is not recorded, or not yet.")
    share = [Line("", _values(records, "clipped_share"), BLUE, noisy=True)]
    ratio = [
        Line("largest ratio", _values(records, "largest_clip_ratio"), RED, noisy=True),
        Line("clipped beyond", {r["step"]: found.recipe.clipping for r in records}, GRAY),
    ]
    charts = [
        line_chart("share", share, ylabel="share of units clipped", percent=True, from_zero=True),
        line_chart("ratio", ratio, ylabel="|gradient| / |parameter|", scale="log"),
    ]
    unit = (
        "A unit is what feeds one output: its gradient is scaled down where its norm is more than "
        f"{found.recipe.clipping:g} of its parameters' norm."
    )
    return join(
        tag("p", unit),
        _side_by_side(charts),
        tag("h3", "By layer"),
        tag("p", _ROWS),
        tag("div", clipping_picture("leaves", records, found.leaves), class_="scroll"),
        tag("h3", "Clipped most"),
        _most_clipped(records, found.leaves),
    )


def _most_clipped(records: Sequence[Mapping[str, Any]], leaves: Sequence[LeafUnits]) -> Html:
    """Lists leaves of several units: one that is a single unit is clipped always or never."""
    means = np.mean([record["clipped_share_of_leaf"] for record in records], axis=0)
    order = [int(index) for index in np.argsort(-means, kind="stable")]
    several = [index for index in order if leaves[index].number > 1][:_LISTED]
    return join(
        tag("p", "Of the leaves that have several units, the mean of all records."),
        table(
            ("leaf", "units", "clipped"),
            ((leaves[i].path, f"{leaves[i].number:,}", f"{means[i]:.1%}") for i in several),
        ),
    )


def propagation(found: RunReport, findings: Findings) -> Html:
    """Draws how mean and variance go through the depth of the network, before and after."""
    if findings.after is None:
        return tag("p", f"Not drawn: {found.recipe.model} normalizes its signal in every layer.")
    measured = {
        "at initialization": findings.before,
        f"step {findings.step:,}, averaged": findings.after,
    }
    charts = [
        depth_chart(
            name,
            found.places[1:] if name == "residual_variance" else found.places,
            {label: getattr(signal, name) for label, signal in measured.items() if signal},
            ylabel=ylabel,
        )
        for name, ylabel in (
            ("squared_mean", "squared mean of a channel"),
            ("variance", "variance of a channel"),
            ("residual_variance", "variance of the residual branch"),
        )
    ]
    return join(tag("p", _SIGNAL), _side_by_side(charts))


def throughput(found: RunReport) -> Html:
    """Draws how fast training went and, where that is recorded, what held it up."""
    training, batch_size = found.training, found.recipe.batch_size
    if not training:
        return tag("p", "Nothing is recorded yet.")
    speed = {r["step"]: batch_size / max(r["seconds_per_step"], 1e-9) for r in training}
    charts = [
        line_chart(
            "speed", [Line("", speed, BLUE, noisy=True)], ylabel="images / s", from_zero=True
        )
    ]
    if waits := _values(training, "data_wait_share"):
        lines = [Line("", waits, ORANGE, noisy=True)]
        charts.append(
            line_chart(
                "waits", lines, ylabel="time spent waiting for images", percent=True, from_zero=True
            )
        )
    if memory := _values(training, "memory_bytes"):
        gigabytes = {step: value / 1e9 for step, value in memory.items()}
        lines = [Line("", gigabytes, GREEN)]
        charts.append(line_chart("memory", lines, ylabel="peak memory, GB", from_zero=True))
    words = (
        f"Half of the records have more than {median_speed(found):,.0f} images / s. Evaluations "
        "and saves do not count."
    )
    return join(tag("p", words), _side_by_side(charts))


def median_speed(found: RunReport) -> float:
    """Images a second, of the record in the middle."""
    return found.recipe.batch_size / statistics.median(
        max(record["seconds_per_step"], 1e-9) for record in found.training
    )


def _values(records: Sequence[Mapping[str, Any]], name: str) -> dict[int, float]:
    """A metric by step, of the records that have it."""
    return {
        record["step"]: float(record[name]) for record in records if record.get(name) is not None
    }


def _side_by_side(charts: Sequence[Html]) -> Html:
    return tag("div", *(tag("figure", chart) for chart in charts), class_="charts")
