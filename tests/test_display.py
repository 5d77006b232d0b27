"""What a run shows of itself: on the screen, and in other people's dashboards."""

import io
import json
import sys
import time
import types

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from rich.console import Console

from nfx._show import typed_path
from nfx._units import LeafUnits
from nfx.cli import main
from nfx.data import Batch
from nfx.train import (
    Display,
    MetricsLog,
    open_boards,
    Pace,
    RunDirectory,
    TrainingError,
    without_pace,
)
from nfx.train._pace import Stopwatch
from nfx.train._plots import _draw
from tests.disk import full_disk


METRICS = {
    "loss": 0.9204, "test_accuracy": 0.785, "test_accuracy_raw": 0.747, "learning_rate": 0.00405,
    "gradient_norm": 1.381, "clipped_share": 0.31, "clipped_share_of_leaf": [0.0, 1.0],
    **Pace(0.032, 0.25, 1_380_000_000)._asdict(),
}  # fmt: skip


def screen(*, terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def test_a_terminal_shows_how_training_goes_and_how_long_the_rest_takes(monkeypatch):
    console, now = screen(terminal=True), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = Display(1000, 32, console)
    display.begin(200)
    now[0] += 40.0
    display.update(400, METRICS)  # 200 steps in 40 seconds, and 600 to go
    console.print(display._screen())
    shown = console.file.getvalue()
    for words in (
        "step 400/1,000", "40%", "0:02:00 left", "loss 0.920", "test accuracy 78.5%", "raw 74.7%",
        "lr 0.00405", "gradient norm 1.38", "31% clipped", "1,000 images/s", "32 ms/step",
        "25% waiting for images", "1.285 GiB of memory",
    ):  # fmt: skip
        assert words in shown


def test_without_a_terminal_a_line_a_minute_says_so(monkeypatch):
    console, now = screen(terminal=False), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Display(1000, 32, console) as display:
        display.begin(0)
        for step in range(1, 200):
            now[0] += 1.0
            display.update(step, METRICS)
    lines = console.file.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["step", "61"],
        ["step", "122"],
        ["step", "183"],
    ]
    assert "loss 0.920" in lines[0]
    assert "left" in lines[0]


def test_lines_of_clipping_have_the_colors_of_their_labels():
    records = [{**METRICS, "step": step, "largest_clip_ratio": 2.0} for step in (1, 2)]
    leaves = [LeafUnits("conv/weight", (3,), 4), LeafUnits("conv/gain", (0,), 4)]
    share, _, ratio, _ = _draw(records, leaves).axes
    colors = [to_rgba(line.get_color()) for axes in (share, ratio) for line in axes.lines]
    assert colors == [to_rgba(axes.yaxis.label.get_color()) for axes in (share, ratio)]
    assert colors[0] != colors[1]


def test_a_quiet_display_shows_nothing(capsys):
    with Display(10, 32, quiet=True) as display:
        display.say("hello")
        display.begin(0)
        display.update(1, METRICS)
    assert capsys.readouterr().out == ""


class Pending:
    """A value that a device has not computed yet."""

    def is_ready(self):
        return False


def slow_batches():
    while True:
        time.sleep(0.05)
        yield Batch(np.zeros((1, 2, 2, 1)), np.zeros(1))


@pytest.mark.parametrize(
    ("before", "low", "high"),
    [({"loss": jnp.ones(())}, 0.5, 1.0), ({}, 0.5, 1.0), ({"loss": Pending()}, 0.0, 0.0)],
)
def test_only_waiting_with_nothing_to_compute_counts(before, low, high):
    watch, batches = Stopwatch(3), slow_batches()
    for _ in range(4):
        watch.next_batch(batches, before)
    pace = watch.pace(7)
    assert low <= pace.data_wait_share <= high
    assert 0.05 <= pace.seconds_per_step < 1
    assert pace.memory_bytes > 10**7
    watch.restart(7)
    assert watch.pace(8).data_wait_share == 0


def test_the_pace_is_what_differs_between_machines():
    assert without_pace(METRICS).keys() == METRICS.keys() - set(Pace._fields)


class FakeRun:
    def __init__(self, **settings):
        self.settings, self.logged, self.finished = settings, [], False

    def define_metric(self, name, *, step_metric):
        self.metrics = (name, step_metric)

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished = True


def test_weights_and_biases_has_the_scalars_of_one_run_however_often_it_is_resumed(
    tmp_path, monkeypatch
):
    runs = []
    init = lambda **settings: runs.append(FakeRun(**settings)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    directory = RunDirectory.create(tmp_path / "run", {"recipe": {"seed": 1}})
    for step in (0, 10):
        boards = open_boards(directory, step=step, say=print, wandb_project="nets")
        with MetricsLog(directory.path, step=step, boards=boards) as log:
            log.write(step + 10, METRICS)
    scalars = {name: value for name, value in METRICS.items() if name != "clipped_share_of_leaf"}
    assert [run.logged for run in runs] == [[{"step": 10, **scalars}], [{"step": 20, **scalars}]]
    assert all(run.finished for run in runs)
    assert len({run.settings["id"] for run in runs}) == 1
    assert runs[0].settings["project"] == "nets"
    assert runs[0].settings["config"] == {"recipe": {"seed": 1}}
    assert len((directory.path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_board_that_is_not_installed_is_named_before_anything_is_written(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--wandb", "nets"]) == 1
    assert "pip install 'nfx[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_where_weights_and_biases_cannot_begin_it_is_said_what_to_do(tmp_path, monkeypatch):
    def init(**settings):
        raise ConnectionError("no login and no network")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    directory = RunDirectory.create(tmp_path / "run", {})
    with pytest.raises(TrainingError, match=r"--wandb nets: .*no network.* WANDB_MODE=offline"):
        open_boards(directory, step=0, say=print, wandb_project="nets")


def test_tensorboard_has_the_scalars(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", {})
    boards = open_boards(directory, step=0, say=print)
    with MetricsLog(directory.path, step=0, boards=boards) as log:
        log.write(1, METRICS)
    (events,) = (directory.path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"gradient_norm" in content
    assert b"clipped_share_of_leaf" not in content
    assert json.loads((directory.path / "metrics.jsonl").read_text())["loss"] == 0.9204


@pytest.mark.parametrize("bytes_per_file", [0, 2000])
def test_a_full_disk_takes_tensorboard_from_a_run_and_nothing_else(tmp_path, bytes_per_file):
    """At the first write, or at a later one; and the run ends."""
    directory, said = RunDirectory.create(tmp_path / "run", {}), []
    with full_disk(bytes_per_file):
        (board,) = open_boards(directory, step=0, say=said.append)
        for step in range(200):
            board.write(step, {"loss": 1.0})
        board.close()
    (warning,) = said
    assert repr(str(directory.path / "tensorboard")) in warning
    assert "File too large" in warning


def test_paths_are_as_one_types_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert typed_path(tmp_path / "runs" / "a") == "runs/a"
    assert typed_path(tmp_path / "my runs") == "'my runs'"
    assert typed_path("/elsewhere") == "/elsewhere"
