"""The page that is written about a run."""

import dataclasses
import html.parser
import itertools
import json
import re
import shutil
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from nfx._tree import parameter_count
from nfx.analysis import signal_propagation
from nfx.augment import normalize
from nfx.checkpoint import CheckpointStore
from nfx.cli import main
from nfx.models import apply_batch
from nfx.recipes import (
    build_parts,
    get_recipe,
    load_classifier,
    recipe_from_config,
    report,
    RunOptions,
    train,
)
from nfx.recipes._evaluation import parts_without_images
from nfx.recipes._report._content import gather_report
from nfx.recipes._report._figures import Line, line_chart, thinned
from nfx.recipes._report._findings import load_checkpoint
from nfx.recipes._report._html import Html, join, tag
from nfx.recipes._report._page import report_page
from nfx.recipes._report._sections import clipping, curves
from nfx.recipes._report._tables import class_table, confused_pairs
from nfx.sharding import make_mesh
from nfx.train import Outcomes, read_metrics, RunDirectoryError, without_pace


# One worker runs them all: they share a finished run.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("report")]

# Names that break a page that takes them for HTML, or for a formula.
CLASSES = ["$\\frac{", '<img src=x onerror="alert(1)">', "cats & 'dogs'"]
IMAGES = 16

SECTIONS = [
    "summary", "curves", "clipping", "signal", "throughput", "classes", "mistakes", "troubles",
    "recipe",
]  # fmt: skip


def write_images(root):
    for split, (label, name) in itertools.product(("train", "test"), enumerate(CLASSES)):
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(IMAGES):
            rng = np.random.default_rng([label, number, split == "test"])
            pixels = rng.integers(0, 120, (16, 16, 1)) + 50 * label
            path = folder / f"<script>alert({number})<script>.png"
            Image.fromarray(pixels[..., 0].astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps, and what there is to say about it."""
    root = tmp_path_factory.mktemp("report")
    write_images(root / "images")
    recipe = dataclasses.replace(
        get_recipe("sample"), data=str(root / "images"), model="nfnet_nano", image_size=16,
        batch_size=16, steps=6, warmup_steps=2.0, learning_rate=0.5, ema=0.5,
    )  # fmt: skip
    options = RunOptions(
        run_dir=str(root / "run"), log_every=1, evaluate_every=3, checkpoint_every=3
    )
    return train(recipe, options)


@pytest.fixture(scope="module")
def found(run):
    mesh = make_mesh({"data": 8})
    return gather_report(run, mesh, step=None, data="", say=lambda message: None)


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, to break."""
    shutil.copytree(run.path, tmp_path / "copy")
    return tmp_path / "copy"


def without_checkpoints(path):
    shutil.rmtree(path / "checkpoints")


def change_recipe(path, **fields):
    config = json.loads((path / "config.json").read_text())
    config["recipe"] |= fields
    (path / "config.json").write_text(json.dumps(config))


class Page(html.parser.HTMLParser):
    """The elements of a page, and its text; raises if elements are not nested."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def of_class(self, name):
        return [element for element in self.elements if element[1].get("class") == name]


@pytest.fixture(scope="module")
def page(found):
    return report_page(found)


def test_a_page_has_every_section_and_needs_nothing_else(run, page):
    parsed = Page(page)
    sections = [attributes["id"] for tag, attributes in parsed.elements if tag == "section"]
    assert sections == SECTIONS
    links = [attributes["href"] for tag, attributes in parsed.elements if tag == "a"]
    assert links == [f"#{name}" for name in SECTIONS]
    assert all(not count for count in (parsed.of_class("note"), page.count("<script")))
    assert len([tag for tag, _ in parsed.elements if tag == "svg"]) >= 10
    addresses = [
        value
        for _, attributes in parsed.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href")
    ]
    assert all(value.startswith(("#", "data:image/")) for value in addresses)
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(page) < 1_000_000
    text = " ".join(parsed.texts)
    assert f"{run.result['test_accuracy']:.1%}" in parsed.texts
    assert f"{run.result['test_accuracy_raw']:.1%}" in parsed.texts
    assert f"nfnet_nano, {parameter_count(load_classifier(run.path).model):,} parameters" in text
    assert "cpu, mesh data=8" in text
    assert 'augment_order = ["flip"' in text


def test_elements_of_all_charts_have_names_of_their_own(page):
    parsed = Page(page)
    assert [name for name, count in Counter(parsed.ids()).items() if count > 1] == []
    used = {
        attributes["xlink:href"][1:] for _, attributes in parsed.elements
        if attributes.get("xlink:href", "").startswith("#")
    } | set(re.findall(r"url\(#([^)]+)\)", page))  # fmt: skip
    assert used
    assert used <= set(parsed.ids())


def test_norms_and_ratios_are_drawn_on_a_scale_of_powers(found, monkeypatch):
    scales = {}

    def chart(name, lines, *, ylabel, scale="linear", percent=False, from_zero=False):
        scales[name] = scale
        return tag("p", ylabel)

    monkeypatch.setattr("nfx.recipes._report._sections.line_chart", chart)
    join(curves(found), clipping(found))
    assert {name for name, scale in scales.items() if scale == "log"} == {"norm", "ratio"}


def test_names_from_outside_are_text(page):
    parsed = Page(page)
    assert {tag for tag, _ in parsed.elements} & {"script", "link", "iframe"} == set()
    assert not any(name.startswith("on") for _, given in parsed.elements for name in given)
    for name in CLASSES:
        assert name in parsed.texts  # as a whole, and as it was
    assert any("<script>alert(" in text for text in parsed.texts)


def test_html_escapes_all_that_is_not_html():
    assert (
        tag("p", "a < b", Html("<br>"), class_='"x"') == '<p class="&quot;x&quot;">a &lt; b<br></p>'
    )
    assert join(tag("b", 1), "&") == "<b>1</b>&amp;"
    assert tag("img", src="'") == '<img src="&#x27;">'
    assert join("\udcff").encode("utf-8") == b"\\udcff"  # a file's name that is in no encoding


def test_outcomes_are_those_of_each_image_on_its_own(run, found):
    outcomes = found.findings.outcomes
    assert found.findings.step == 6
    classifier, images = load_classifier(run.path), found_images(run)
    mean, std = classifier.images.mean, classifier.images.std

    @jax.jit
    def logits(image):
        normalized = normalize(image[None], mean, std)
        return apply_batch(classifier.model, classifier.statistics, normalized)[0][0]

    for index in range(len(images)):
        pixels, label, _ = images.judge(index)
        scores = np.asarray(logits(jnp.asarray(pixels)), np.float64)
        probabilities = np.exp(scores) / np.exp(scores).sum()
        assert outcomes.image[index] == index
        assert outcomes.label[index] == label
        assert outcomes.predicted[index] == np.argmax(scores)
        assert outcomes.probability[index] == pytest.approx(probabilities.max(), rel=1e-4)
        assert outcomes.loss[index] == pytest.approx(-np.log(probabilities[label]), rel=1e-4)
    assert outcomes.accuracy == pytest.approx(run.result["test_accuracy"])
    assert np.mean(outcomes.loss) == pytest.approx(run.result["test_loss"], rel=1e-5)


def found_images(run):
    return build_parts(recipe_from_config(run.config)).images.test


def random_outcomes(count, classes):
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, classes, (2, count))
    predicted = np.where(rng.random(count) < 0.5, label, predicted)
    loss, probability = rng.random((2, count))
    return Outcomes(np.arange(count) + 100, label, predicted, probability, loss)


def test_confusions_are_counted():
    outcomes = random_outcomes(500, 7)
    counts = outcomes.confusion(7)
    for row, column in itertools.product(range(7), range(7)):
        pairs = zip(outcomes.label, outcomes.predicted, strict=True)
        assert counts[row, column] == sum(pair == (row, column) for pair in pairs)
    assert outcomes.accuracy == np.trace(counts) / 500


def test_worst_mistakes_are_those_of_highest_loss():
    outcomes = random_outcomes(200, 3)
    wrong = [i for i in range(200) if outcomes.label[i] != outcomes.predicted[i]]
    expected = sorted(wrong, key=lambda i: -outcomes.loss[i])[:24]
    worst = outcomes.worst(24)
    assert list(worst.image) == [100 + i for i in expected]
    assert list(worst.loss) == [outcomes.loss[i] for i in expected]
    right = outcomes._replace(predicted=outcomes.label)
    assert len(right.worst(24).image) == 0


def test_mistakes_are_shown_with_what_they_are(run, found, page):
    images, outcomes = found_images(run), found.findings.outcomes
    mistakes = found.findings.mistakes
    losses = [mistake.loss for mistake in mistakes]
    wrong = outcomes.loss[outcomes.label != outcomes.predicted]
    assert losses == sorted(wrong, reverse=True)[:24]
    for mistake in mistakes:
        assert mistake.label != mistake.predicted
        names = [images.source[i].name for i in range(len(images))]
        shown = images.judge(names.index(mistake.name))
        assert shown.label == mistake.label
        np.testing.assert_array_equal(shown.image, mistake.pixels)
    pictures = [given for tag, given in Page(page).elements if tag == "img"]
    assert [given["alt"] for given in pictures] == [
        f"{CLASSES[mistake.label]} taken for {CLASSES[mistake.predicted]}" for mistake in mistakes
    ]


def test_the_matrix_on_the_page_has_every_image_once(found, page):
    start = page.index('<table class="confusion">')
    cells = re.findall(r"<td style=[^>]*>(\d+)</td>", page[start : page.index("</table>", start)])
    counts = found.findings.outcomes.confusion(3)
    assert list(map(int, cells)) == [count for count in counts.flat if count]
    assert counts.sum() == 3 * IMAGES


def test_many_classes_have_a_list_of_pairs_and_the_worst():
    outcomes = random_outcomes(4000, 60)
    names = [f"class {number}" for number in range(60)]
    counts = outcomes.confusion(60)
    rows = re.findall(r"<tr><td>class (\d+)</td><td>class (\d+)</td><td>(\d+)</td>",
                      confused_pairs(counts, names))  # fmt: skip
    listed = [tuple(map(int, row)) for row in rows]
    mistakes = Counter(
        (int(label), int(predicted))
        for label, predicted in zip(outcomes.label, outcomes.predicted, strict=True)
        if label != predicted
    )
    assert len(listed) == 25
    assert [count for *_, count in listed] == sorted(mistakes.values(), reverse=True)[:25]
    assert all(mistakes[row, column] == count for row, column, count in listed)
    worst = re.findall(r"<tr><td>class (\d+)</td>", class_table(counts, names))
    share = np.diag(counts) / counts.sum(axis=1)
    assert len(worst) == 25
    assert share[list(map(int, worst))].tolist() == sorted(share)[:25]


def test_the_signal_is_that_of_the_first_parameters_and_of_the_average(run, found):
    parts = build_parts(recipe_from_config(run.config))
    images = parts.images.test
    pixels = jnp.stack([jnp.asarray(images.judge(i).image) for i in range(len(images))])
    normalized = normalize(pixels, *parts.preprocessing[:2])
    measure = jax.jit(signal_propagation)
    before, after = found.findings.before, found.findings.after
    networks = (jax.jit(parts.build_model)(), load_classifier(run.path).model)
    for statistics, model in zip((before, after), networks, strict=True):
        for ours, expected in zip(statistics, measure(model, normalized), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-4)
    assert np.max(np.abs(before.variance - after.variance)) > 1e-6


def test_a_run_that_goes_on_has_a_page(copy):
    (copy / "result.json").unlink()
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    early = [line for line in lines if json.loads(line)["step"] < 5]
    (copy / "metrics.jsonl").write_text("".join(early) + '{"step": 5, "lo')
    without_checkpoints(copy)
    page = report(copy).read_text()
    assert "The run has not ended: it is at step 4 of 6" in page
    assert page.count("There is no checkpoint that is whole") == 3
    assert Page(page).ids()
    assert not (copy / "checkpoints").exists()
    (copy / "metrics.jsonl").unlink()
    assert "Nothing is recorded yet." in report(copy).read_text()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"clipping": None}, "The run does not clip"),
        ({"model": "se_resnext_micro"}, "What is clipped is not recorded"),
        ({"data": "/nowhere/at/all"}, "No folder &#x27;/nowhere/at/all&#x27;"),
    ],
)
def test_what_does_not_apply_is_said_in_a_line(copy, fields, words):
    without_checkpoints(copy)
    change_recipe(copy, **fields)
    records = [
        {name: value for name, value in record.items() if "clip" not in name}
        for record in read_metrics(copy)
    ]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    assert words in report(copy).read_text()


def test_pace_is_drawn_where_it_is_recorded(copy):
    without_checkpoints(copy)
    charts = []
    for pace in ({"data_wait_share": 0.25, "memory_bytes": 3 * 2**30}, {}):
        records = [
            without_pace(record) | {"seconds_per_step": 0.1} | pace for record in read_metrics(copy)
        ]
        (copy / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
        page = report(copy).read_text()
        charts.append([label for label in ("images / s by step", "time spent waiting",
                                           "peak memory, GB") if label in page])  # fmt: skip
    assert [len(labels) for labels in charts] == [3, 1]


def test_what_went_wrong_is_listed(copy):
    without_checkpoints(copy)
    assert "Nothing: no bad images" in report(copy).read_text()
    bad = {"split": "train", "index": 3, "name": "<b>.jpg", "reason": "it is empty"}
    step = {"step": 4, "batch": 3, "images": [f"{i}.jpg" for i in range(9)], "left_out": True}
    (copy / "bad_images-1.jsonl").write_text(json.dumps(bad) + "\n")
    (copy / "nonfinite.jsonl").write_text(json.dumps(step) + "\n")
    (copy / "hang-20260101-000000.txt").write_text("")
    for step in (12, 6):
        (copy / "checkpoints.damaged" / str(step)).mkdir(parents=True)
    page = report(copy).read_text()
    for words in ("Images that cannot be used: 1", "&lt;b&gt;.jpg", "Steps that were not finite: 1",
                  "4.jpg and 4 more", "Hangs: 1", "hang-20260101-000000.txt",
                  "Damaged checkpoints: 2", "<td>step 12</td>"):  # fmt: skip
        assert words in page
    assert page.index("<td>step 6</td>", page.index("Damaged")) < page.index("<td>step 12</td>")
    assert "Nothing: no bad images" not in page


@pytest.mark.slow
def test_a_damaged_checkpoint_is_said_and_left_where_it_is(copy):
    record = copy / "checkpoints" / "6" / "record" / "metadata"
    record.write_bytes(record.read_bytes()[:-40])
    before = sorted(copy.rglob("*"))
    page = report(copy, output=copy.parent / "page.html").read_text()
    assert "Damaged checkpoints: 1" in page
    assert "parameters (EMA), step 3" in page
    assert sorted(copy.rglob("*")) == before
    assert main(["report", str(copy), "--step", "6"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "'/nowhere' is not a run directory"),
        (["RUN", "--step", "5"], "No checkpoint of step 5"),
        (["RUN", "--mesh", "data=3"], "needs 3 devices"),
        (["RUN", "--data", "/nowhere"], "No folder '/nowhere'"),
        (["RUN", "--data", "sample"], "are of other classes than the model"),
        (
            ["RUN", "--output", "/nowhere/page.html"],
            "Cannot write a report to '/nowhere/page.html'",
        ),
        (["RUN", "--output", "/dev/full/page.html"], "Cannot write a report to"),
    ],
)
def test_what_cannot_be_reported_is_refused(copy, capsys, arguments, message):
    before = sorted(copy.rglob("*"))
    assert main(["report", *(str(copy) if each == "RUN" else each for each in arguments)]) == 1
    assert message in capsys.readouterr().err
    assert sorted(copy.rglob("*")) == before


def test_the_best_checkpoint_can_be_reported(run):
    found = load_checkpoint(run, parts_without_images(run), make_mesh({"data": 8}), "best")
    with CheckpointStore(run.checkpoints, read_only=True) as store:
        assert found.step == store.best()
    assert int(found.state.step) == found.step


@pytest.mark.parametrize(
    ("arguments", "step"),
    [(["RUN@best"], "best"), (["RUN@3"], 3), (["RUN", "--step", "best"], "best"), (["RUN"], None)],
)
def test_a_checkpoint_is_named_as_for_other_commands(run, monkeypatch, arguments, step):
    asked = []

    def reported(path, **options):
        asked.append((path, options["step"]))
        return path / "config.json"

    monkeypatch.setattr("nfx.cli._report.report", reported)
    assert main(["report", *(each.replace("RUN", str(run.path)) for each in arguments)]) == 0
    assert asked == [(run.path, step)]


def test_a_page_that_cannot_be_finished_leaves_the_last_one(copy, monkeypatch):
    without_checkpoints(copy)
    whole = report(copy).read_bytes()
    files = sorted(copy.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("nfx.recipes._report._page.throughput", lambda found: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            report(copy)
    assert (copy / "report.html").read_bytes() == whole
    assert sorted(copy.iterdir()) == files
    with pytest.raises(RunDirectoryError, match="elsewhere"):
        report(copy / "elsewhere")


def test_the_command_writes_where_it_is_told(copy, capsys, tmp_path):
    without_checkpoints(copy)
    assert main(["report", str(copy), "--output", str(tmp_path / "page.html")]) == 0
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert not (copy / "report.html").exists()


def test_long_runs_are_drawn_as_means():
    def chart(steps):
        return line_chart(
            "x", [Line("", {n: float(n * n % 997) for n in range(steps)}, "#000")], ylabel="y"
        )

    assert len(chart(60_000)) < 2 * len(chart(600))
    steps, values = thinned(np.arange(12), np.stack([np.arange(12), -np.arange(12)], axis=1), 4)
    np.testing.assert_array_equal(steps, [1, 4, 7, 10])
    np.testing.assert_array_equal(values, [[1, -1], [4, -4], [7, -7], [10, -10]])
