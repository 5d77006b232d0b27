"""Runs that are stopped, damaged or not finite, and what they end with."""

import json
import shutil
import signal

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from nfx.cli import main
from nfx.data import training_indices
from nfx.recipes import _session
from nfx.train import lock_directory, read_metrics, run_training, without_pace


# One worker runs them all: they share a finished run.
pytestmark = pytest.mark.xdist_group("faulty runs")

SMALL = [
    "--model", "nfnet_nano", "--batch-size", "16", "--steps", "12", "--checkpoint-every", "4",
    "--evaluate-every", "100", "--log-every", "3", "--warmup-steps", "5",
    "--clipping", "None",
]  # fmt: skip


def train(run_dir, *options):
    return main(["train", "--run-dir", str(run_dir), *SMALL, *options])


def outcome(run_dir):
    records = [without_pace(record) for record in read_metrics(run_dir)]
    return json.loads((run_dir / "result.json").read_text())["params_digest"], records


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """What one of these runs compiles, the others load."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compilations")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for settings in (names, before):
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if settings is names:
            yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
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
def test_a_run_that_is_stopped_resumes_to_the_same_bits(finished, tmp_path, capfd, monkeypatch, at):
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


@pytest.mark.slow
def test_a_batch_that_is_not_finite_is_named_or_left_out(tmp_path, capsys, monkeypatch):
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
    names = training_indices(5000, 16, seed=0, batch=5)
    assert "at step 6 the metrics were" in error
    assert f"Its images are 'image {names[0]}', 'image {names[1]}'" in error
    assert "and 11 more" in error

    assert train(tmp_path / "skips", "--on-nonfinite", "skip") == 0
    (record,) = map(json.loads, (tmp_path / "skips" / "nonfinite.jsonl").read_text().splitlines())
    assert (record["step"], record["batch"], record["left_out"]) == (6, 5, True)
    assert record["images"] == [f"image {index}" for index in names]
    assert "Its batch is left out (1 of at most 5)" in capsys.readouterr().out

    # What was left out is known to whoever resumes from before it.
    known = tmp_path / "resumed"
    shutil.copytree(tmp_path / "skips", known)
    (known / "result.json").unlink()
    for step in (8, 12):
        shutil.rmtree(known / "checkpoints" / str(step))
    assert train(known, "--resume") == 0
    assert outcome(known) == outcome(tmp_path / "skips")


def test_a_run_that_is_never_finite_gives_up(tmp_path, capsys, monkeypatch):
    def bad(number, batch, metrics, observer):
        metrics["loss"] = np.float32(np.inf if number >= 2 else 1)
        return metrics

    disturb(monkeypatch, bad)
    assert train(tmp_path / "run", "--on-nonfinite", "skip") == 1
    assert "5 batches were left out before" in capsys.readouterr().err
    records = (tmp_path / "run" / "nonfinite.jsonl").read_text().splitlines()
    assert [json.loads(record)["batch"] for record in records] == [1, 2, 3, 4, 5, 6]


def test_a_damaged_newest_checkpoint_is_warned_of_and_trained_again(finished, tmp_path, capsys):
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


def test_a_run_that_another_process_trains_is_refused(finished, capsys):
    with lock_directory(finished, say=print):
        assert train(finished, "--resume") == 1
    assert "is in use by another process" in capsys.readouterr().err
