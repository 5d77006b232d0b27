"""The page of a report: its sections in order, its style, and a list of what is on it."""

from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import resources
from pathlib import PurePath
from typing import NamedTuple

from nfx.data import BadImage
from nfx.recipes._report._content import RunReport
from nfx.recipes._report._findings import Findings
from nfx.recipes._report._html import Html, join, tag
from nfx.recipes._report._sections import clipping, curves, median_speed, propagation, throughput
from nfx.recipes._report._tables import (
    class_table,
    confused_pairs,
    confusion_matrix,
    facts,
    mistake_pictures,
    MOST_CLASSES,
    troubles_list,
)
from nfx.recipes._toml import recipe_to_toml
from nfx.sharding import format_mesh


# Names of classes in the summary.
_NAMED = 20


class _Section(NamedTuple):
    name: str
    title: str
    content: Html


def report_page(found: RunReport) -> str:
    """Lays out a report.

    Args:
        found: What there is to say.
    """
    sections = (
        _Section("summary", "Summary", _summary(found)),
        _Section("curves", "Curves", curves(found)),
        _Section("clipping", "Clipping", clipping(found)),
        _Section("signal", "Signal propagation", _of_findings(found, propagation)),
        _Section("throughput", "Throughput", throughput(found)),
        _Section("classes", "Confusion", _of_findings(found, _classes)),
        _Section("mistakes", "Worst mistakes", _of_findings(found, _mistakes)),
        _Section("troubles", "What went wrong", troubles_list(found.troubles, _skipped(found))),
        _Section("recipe", "Recipe", _recipe(found)),
    )
    title = f"{found.recipe.model} on {_data(found)}"
    style = (resources.files("nfx.recipes._report") / "report.css").read_text("utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(style)),
    )
    links = tag("nav", *(tag("a", each.title, href=f"#{each.name}") for each in sections))
    body = (tag("section", tag("h2", each.title), each.content, id=each.name) for each in sections)
    footer = tag("footer", f"Written {datetime.now():%Y-%m-%d %H:%M} by nfx report.")
    page = tag("main", tag("h1", title), links, *body, footer)
    return f"<!doctype html>\n{tag('html', head, tag('body', page), lang='en')}\n"


def _of_findings(found: RunReport, section: Callable[[RunReport, Findings], Html]) -> Html:
    """A section on what a checkpoint does, or why there is none."""
    if isinstance(found.findings, str):
        return tag("p", found.findings, class_="note")
    return section(found, found.findings)


def _summary(found: RunReport) -> Html:
    steps = found.recipe.steps
    status = (
        ""
        if found.result
        else tag(
            "p",
            f"The run has not ended: it is at step {found.step:,} of {steps:,}, or was when it "
            "was stopped.",
            class_="note",
        )
    )
    tiles = (
        tag("div", tag("b", value), tag("span", words), class_="tile")
        for value, words in (*_accuracies(found), *_pace(found))
    )
    return join(status, tag("div", *tiles, class_="tiles"), facts(_facts(found)))


def _accuracies(found: RunReport) -> list[tuple[str, str]]:
    """The accuracy of the checkpoint, or where there is none of the last evaluation."""
    raw = {record["step"]: record["test_accuracy_raw"] for record in found.evaluations}
    averaged = {record["step"]: record["test_accuracy"] for record in found.evaluations}
    if isinstance(found.findings, Findings):
        step, accuracy = found.findings.step, found.findings.outcomes.accuracy
    elif averaged:
        step, accuracy = max(averaged.items())
    else:
        return []
    when = "" if step == found.step else f", step {step:,}"
    tiles = [(f"{accuracy:.1%}", f"test accuracy, averaged parameters (EMA){when}")]
    if step in raw:
        tiles.append((f"{raw[step]:.1%}", f"test accuracy, raw parameters{when}"))
    return tiles


def _pace(found: RunReport) -> list[tuple[str, str]]:
    tiles = [(f"{found.step:,}", f"of {found.recipe.steps:,} steps of {found.recipe.batch_size:,}")]
    if found.result:
        tiles.append(
            (_duration(found.result["wall_seconds"]), "wall time, since it was last started")
        )
    if found.training:
        tiles.append((_duration(_training_seconds(found)), "in training steps alone"))
        tiles.append((f"{median_speed(found):,.0f}", "images / s, median"))
    return tiles


def _training_seconds(found: RunReport) -> float:
    before, seconds = 0, 0.0
    for record in found.training:
        seconds += (record["step"] - before) * record["seconds_per_step"]
        before = record["step"]
    return seconds


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _facts(found: RunReport) -> list[tuple[str, object]]:
    config, recipe = found.directory.config, found.recipe
    train, test = config["images"]
    names = [*found.class_names[:_NAMED], *(["…"] if len(found.class_names) > _NAMED else [])]
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    mesh = format_mesh(found.result.get("mesh", {}))
    devices = [("Devices", f"{found.result['platform']}, mesh {mesh}")] if mesh else []
    return [
        ("Model", f"{recipe.model}, {found.parameters:,} parameters, {recipe.precision}"),
        ("Data", f"{recipe.data}: {train:,} images to train on, {test:,} to test with"),
        ("Classes", f"{len(found.class_names):,}: {', '.join(names)}"),
        *devices,
        ("Seed", recipe.seed),
        ("Versions", versions),
        ("Commit", config.get("commit") or "not known"),
        ("Run directory", found.directory.path),
    ]


def _data(found: RunReport) -> str:
    return PurePath(found.recipe.data).name


def _classes(found: RunReport, findings: Findings) -> Html:
    names = found.class_names
    counts = findings.outcomes.confusion(len(names))
    number = f"{len(findings.outcomes.image):,} test images, step {findings.step:,}, averaged."
    if len(names) > MOST_CLASSES:
        words = f"{number} The pairs of classes that are confused most, and the worst classes."
        matrix = confused_pairs(counts, names)
    else:
        words = f"{number} Rows are what images are, columns what they are taken for."
        matrix = confusion_matrix(counts, names)
    return join(tag("p", words), tag("div", matrix, class_table(counts, names), class_="beside"))


def _mistakes(found: RunReport, findings: Findings) -> Html:
    if not findings.mistakes:
        return tag("p", "None: every test image is classified right.")
    wrong = round(len(findings.outcomes.image) * (1 - findings.outcomes.accuracy))
    words = (
        f"Of {wrong:,} test images that are taken for another class, those of the highest loss: "
        "what they are, what they are taken for and how probable the network finds that. "
        "Wrong labels, if there are any, tend to be here."
    )
    return join(tag("p", words), mistake_pictures(findings.mistakes, found.class_names))


def _recipe(found: RunReport) -> Html:
    toml = tag("pre", recipe_to_toml(found.recipe))
    return tag("details", tag("summary", "All fields, as TOML"), toml)


def _skipped(found: RunReport) -> Sequence[BadImage]:
    """Test images that could not be used now, beside those that the run has listed."""
    if isinstance(found.findings, str):
        return ()
    known = {(bad["split"], bad["index"]) for bad in found.troubles.bad_images}
    return [bad for bad in found.findings.skipped if ("test", bad.index) not in known]
