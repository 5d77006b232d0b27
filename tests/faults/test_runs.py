"""Runs that are stopped, damaged or not finite, and what they end with."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from nfx.cli import main
from nfx.data import training_indices
from nfx.recipes import _session
from nfx.recipes._feed import Feed
from nfx.train import lock_directory, read_metrics, run_training, without_pace


# One worker runs them all: they share a finished run.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("faulty runs"),
    pytest.mark.usefixtures("quick_runs"),
]

SMALL = [
    "--model", "nfnet_nano", "--image-size", "16", "--batch-size", "16", "--mesh", "data=1",
    "--steps", "12", "--checkpoint-every", "4",
    "--evaluate-every", "100", "--log-every", "3", "--warmup-steps", "5",
    "--clipping", "None",
]  # fmt: skip


@pytest.fixture(scope="module")
def train(images):
    """Runs the command and returns its code."""
    where = ["train", "--data", str(images), *SMALL]
    return lambda run_dir, *options: main([*where, "--run-dir", str(run_dir), *options])


def outcome(run_dir):
    records = [without_pace(record) for record in read_metrics(run_dir)]
    return json.loads((run_dir / "result.json").read_text())["params_digest"], records


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick_runs, train):
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    assert train(run_dir) == 0
    return run_dir


def disturb(monkeypatch, change):
    """Puts something before every step: `change(number, metrics, observer)` returns metrics."""

    def disturbed(step, state, batches, key, cadence, observer, **options):
        def changed(state, batch, key):
            number = int(state.step) + 1
            state, metrics = step(state, batch, key)
            return state, change(number, batch, dict(metrics), observer)

        return run_training(changed, state, batches, key, cadence, observer, **options)

    monkeypatch.setattr(_session, "run_training", disturbed)


@pytest.mark.parametrize("at", [2, 8])
def test_a_run_that_is_stopped_resumes_to_the_same_bits(
    train, finished, tmp_path, capfd, monkeypatch, at
):
    def stop(number, batch, metrics, observer):
        if number == at:
            observer._session.guard.stop.take(signal.SIGTERM)
        return metrics

    with monkeypatch.context() as patch:
        disturb(patch, stop)
        assert train(tmp_path / "run") == 143
    error = capfd.readouterr().err
    assert f"Stopped by SIGTERM after step {at}, which is saved" in error
    assert "--resume" in error
    assert (tmp_path / "run" / "checkpoints" / str(at)).is_dir()
    assert train(tmp_path / "run", "--resume") == 0
    assert outcome(tmp_path / "run") == outcome(finished)


def poison(bad_labels):
    """Makes the loss of any batch with these labels not finite."""

    def change(number, batch, metrics, observer):
        if np.asarray(batch.labels).tolist() in bad_labels:
            metrics["loss"] = np.float32(np.nan)
        return metrics

    return change


def test_a_batch_that_is_not_finite_is_named_or_left_out(
    train, images, tmp_path, capsys, monkeypatch
):
    labels = {}

    def note(number, batch, metrics, observer):
        labels[number] = np.asarray(batch.labels).tolist()
        return metrics

    with monkeypatch.context() as patch:
        disturb(patch, note)
        assert train(tmp_path / "seen", "--steps", "7") == 0
    disturb(monkeypatch, poison([labels[6]]))

    assert train(tmp_path / "stops") == 1
    error = capsys.readouterr().err
    paths = sorted(path.relative_to(images).as_posix() for path in images.glob("train/*/*"))
    names = [paths[index] for index in training_indices(240, 16, seed=0, batch=5)]
    assert "at step 6 the metrics were" in error
    assert f"Its images are {names[0]!r}, {names[1]!r}" in error
    assert "and 11 more" in error

    assert train(tmp_path / "skips", "--on-nonfinite", "skip") == 0
    (record,) = map(json.loads, (tmp_path / "skips" / "nonfinite.jsonl").read_text().splitlines())
    assert (record["step"], record["batch"], record["left_out"]) == (6, 5, True)
    assert record["images"] == names
    assert "Its batch is left out (1 of at most 5)" in capsys.readouterr().out

    # What was left out is known to whoever resumes from before it.
    known = tmp_path / "resumed"
    shutil.copytree(tmp_path / "skips", known)
    (known / "result.json").unlink()
    for step in (8, 12):
        shutil.rmtree(known / "checkpoints" / str(step))
    assert train(known, "--resume") == 0
    assert outcome(known) == outcome(tmp_path / "skips")


def test_a_run_that_is_never_finite_gives_up(train, tmp_path, capsys, monkeypatch):
    def bad(number, batch, metrics, observer):
        metrics["loss"] = np.float32(np.inf if number >= 2 else 1)
        return metrics

    disturb(monkeypatch, bad)
    assert train(tmp_path / "run", "--on-nonfinite", "skip") == 1
    assert "5 batches were left out before" in capsys.readouterr().err
    records = (tmp_path / "run" / "nonfinite.jsonl").read_text().splitlines()
    assert [json.loads(record)["batch"] for record in records] == [1, 2, 3, 4, 5, 6]


def test_a_damaged_newest_checkpoint_is_warned_of_and_trained_again(
    train, finished, tmp_path, capsys
):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "result.json").unlink()
    data = max((run_dir / "checkpoints" / "12").rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    assert train(run_dir, "--resume") == 0
    said = capsys.readouterr().out
    assert "WARNING: The checkpoint of step 12 in" in said
    assert "going on from step 8" in said
    assert outcome(run_dir) == outcome(finished)
    assert (run_dir / "checkpoints" / "12").is_dir()


def test_a_run_that_another_process_trains_is_refused(train, finished, capsys):
    before = (finished / "recipe.toml").read_bytes()
    with lock_directory(finished, say=print):
        assert train(finished, "--resume", "--bad-images", "skip") == 1
    assert "is in use by another process" in capsys.readouterr().err
    assert (finished / "recipe.toml").read_bytes() == before


@pytest.mark.parametrize("lost", [shutil.rmtree, lambda folder: (folder / "files.json").unlink()])
def test_a_run_that_goes_on_after_its_end_has_no_result(
    train, finished, tmp_path, monkeypatch, lost
):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    lost(run_dir / "checkpoints" / "12")
    monkeypatch.setattr(_session, "run_training", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(run_dir, "--resume")
    assert not (run_dir / "result.json").exists()


@pytest.mark.parametrize("kept", [0, 1])
def test_a_finished_run_without_its_last_metrics_is_refused(
    train, finished, tmp_path, capsys, kept
):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join(lines[:kept]))
    assert train(run_dir, "--resume") == 1
    error = capsys.readouterr().err
    assert f"{str(run_dir / 'metrics.jsonl')!r} has no record of the last step" in error
    assert f"nfx evaluate {run_dir}" in error
    assert outcome(run_dir)[0] == outcome(finished)[0]


def test_a_first_batch_that_never_comes_is_told(train, finished, tmp_path, monkeypatch, capfd):
    def training(*arguments, **options):
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob("run/hang-*.txt")) and time.monotonic() < deadline:
            time.sleep(0.05)
        raise ValueError("that was long")
        yield

    monkeypatch.setattr(Feed, "training", training)
    assert train(tmp_path / "run", "--hang-timeout", "0.3") == 1
    error = capfd.readouterr().err
    assert "that was long" in error
    assert "no step has ended for" in error
