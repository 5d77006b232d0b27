"""Whole runs, as a user starts, stops, resumes and breaks them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from nfx.cli import main
from nfx.cli._train import _starting_point
from nfx.optim import clipped_leaves, ema_parameters
from nfx.recipes import (
    build_parts,
    evaluate,
    get_recipe,
    options_from_config,
    recipe_from_config,
    RunOptions,
)
from nfx.recipes._evaluation import parts_without_images
from nfx.recipes._run import _stopped
from nfx.train import lock_directory, Pace, RunDirectory, StopRequest, without_pace
from tests.flags import QUICK_COMPILES


# One worker runs them all: they share a finished run.
pytestmark = pytest.mark.xdist_group("run")

# A few seconds of steps of the smallest network, with everything random switched on.
SMALL = [
    "--model", "nfnet_nano", "--batch-size", "16", "--steps", "40", "--checkpoint-every", "8",
    "--evaluate-every", "16", "--log-every", "1", "--warmup-steps", "5",
    "--stochastic-depth", "0.5", "--mixup", "0.2", "--cutmix",
]  # fmt: skip
KILL_AT = 21


def nfx_train(run_dir, *options):
    """Starts the command in a process of its own, with one device."""
    command = [sys.executable, "-c", "from nfx.cli import main; raise SystemExit(main())", "train"]
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILES}
    return subprocess.Popen(
        [*command, "--run-dir", str(run_dir), *SMALL, *options],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def records(run_dir):
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def result(run_dir):
    return json.loads((run_dir / "result.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    process = nfx_train(run_dir)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return run_dir, output


def test_a_run_says_what_it_did_and_what_comes_next(finished):
    run_dir, output = finished
    compiling, done = output.index("Compiling the training step"), output.index("Test accuracy")
    assert compiling < output.index("step     16") < done
    for hint in ("report", "evaluate", "predict", "export", "train --data DIR", "train --help"):
        assert f"nfx {hint}" in output[done:]
    found = result(run_dir)
    assert found["steps"] == 40
    assert 0 <= found["test_accuracy"] <= 1
    assert found["train_loss"] == records(run_dir)[-2]["last_loss"]
    assert len(found["params_digest"]) == 64
    assert found["wall_seconds"] > 0
    config = json.loads((run_dir / "config.json").read_text())
    assert config["recipe"]["model"] == "nfnet_nano"
    assert config["versions"]["nfx"]


@pytest.mark.slow
def test_a_run_keeps_its_latest_checkpoints_and_the_best(finished):
    run_dir, output = finished
    accuracies = {
        record["step"]: record["test_accuracy"]
        for record in records(run_dir)
        if "test_accuracy" in record
    }
    best = max(accuracies, key=lambda step: (accuracies[step], step))
    kept = {int(path.name) for path in (run_dir / "checkpoints").iterdir()}
    assert kept == {24, 32, 40, best}
    assert (f"The best checkpoint is that of step {best}," in output) == (best != 40)


def test_metrics_are_written_at_every_step(finished):
    steps = [record["step"] for record in records(finished[0]) if "loss" in record]
    assert steps == list(range(1, 41))
    first = records(finished[0])[0]
    assert {"learning_rate", "clipped_share", "gradient_norm", *Pace._fields} <= first.keys()
    assert 0 <= first["clipped_share"] <= 1
    assert first["nonfinite_units"] == 0
    assert first["largest_clip_ratio"] > 0


def test_what_clipping_did_to_each_leaf_is_logged_and_drawn(finished):
    run_dir, _ = finished
    parts = build_parts(recipe_from_config(json.loads((run_dir / "config.json").read_text())))
    state = jax.eval_shape(lambda: parts.optimizer.init(parts.build_model()))
    leaves = clipped_leaves(state)
    shares = [record["clipped_share_of_leaf"] for record in records(run_dir) if "loss" in record]
    assert {len(row) for row in shares} == {len(leaves)}
    assert all(0 <= share <= 1 for row in shares for share in row)
    assert (run_dir / "clipping.png").read_bytes().startswith(b"\x89PNG")
    first = records(run_dir)[0]
    total = sum(
        share * leaf.number
        for share, leaf in zip(first["clipped_share_of_leaf"], leaves, strict=True)
    )
    assert total / sum(leaf.number for leaf in leaves) == pytest.approx(
        first["clipped_share"], rel=1e-3
    )


def test_sharpness_aware_recipes_keep_their_average():
    parts = build_parts(dataclasses.replace(get_recipe("sample"), sharpness_radius=0.05))
    state = jax.eval_shape(lambda: parts.optimizer.init(parts.build_model()))
    assert len(jax.tree.leaves(ema_parameters(state))) == len(clipped_leaves(state)) + 1


def test_a_killed_run_resumes_to_the_same_bits(finished):
    run_dir = finished[0].parent / "killed"
    process = nfx_train(run_dir)
    while process.poll() is None and (not (log := records(run_dir)) or log[-1]["step"] < KILL_AT):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run_dir / "result.json").exists(), "it finished before it was killed"

    process = nfx_train(run_dir, "--resume")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "Resumed from the checkpoint of step" in output
    whole, resumed = result(finished[0]), result(run_dir)
    for key in ("params_digest", "test_accuracy", "test_loss", "train_loss"):
        assert resumed[key] == whole[key], key
    logs = [[without_pace(record) for record in records(path)] for path in (run_dir, finished[0])]
    assert logs[0] == logs[1]


@pytest.mark.long  # the drill kills runs anywhere
def test_a_run_killed_before_its_first_checkpoint_starts_over(finished):
    run_dir = finished[0].parent / "early"
    run_dir.mkdir()
    (run_dir / "config.json").write_text((finished[0] / "config.json").read_text())
    process = nfx_train(run_dir, "--resume")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert result(run_dir)["params_digest"] == result(finished[0])["params_digest"]


def test_evaluating_a_run_gives_its_result_again(finished, capsys):
    run_dir, _ = finished
    found = evaluate(run_dir)
    assert found.ema.accuracy == result(run_dir)["test_accuracy"]
    assert found.raw.accuracy == result(run_dir)["test_accuracy_raw"]
    assert found.ema.examples == 1000
    assert main(["evaluate", str(run_dir), "--json", "--step", "32"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["ema"]["examples"] == 1000


def refused(capsys, *arguments):
    """What the command says when it refuses, in one paragraph."""
    assert main(list(arguments)) == 1
    error = capsys.readouterr().err
    assert error.startswith("nfx: error: ")
    assert "Traceback" not in error
    return error


@pytest.mark.long
def test_a_run_that_diverges_stops_with_the_reason(tmp_path, capsys):
    error = refused(capsys, "train", "--run-dir", str(tmp_path / "nan"), *SMALL,
                    "--learning-rate", "1e25", "--clipping", "1e6")  # fmt: skip
    assert "Training diverged: at step" in error
    assert "Lower the learning rate" in error
    assert not (tmp_path / "nan" / "result.json").exists()


def test_a_run_directory_of_another_run_is_not_continued(finished, capsys):
    run_dir = str(finished[0])
    error = refused(capsys, "train", "--run-dir", run_dir, "--resume", "--batch-size", "64")
    assert "with batch_size=16, and not 64" in error
    error = refused(capsys, "train", "--run-dir", run_dir, *SMALL)
    assert "holds a run already. Resume it with --resume" in error


def test_a_run_that_was_refused_before_it_saved_anything_gives_way_to_another(tmp_path, capsys):
    run_dir = tmp_path / "run"
    arguments = ["train", "--run-dir", str(run_dir), *SMALL]
    weights = tmp_path / "weights.npz"
    np.savez(weights, a=np.ones(2))
    refused(capsys, *arguments, "--init", str(weights))
    (run_dir / "bad_images.jsonl").write_text("{}\n")
    with lock_directory(run_dir, say=print):
        assert "in use by another process" in refused(capsys, *arguments)
        assert RunDirectory.open(run_dir).config["recipe"]["init"] == str(weights)
    assert main([*arguments, "--steps", "2"]) == 0
    assert RunDirectory.open(run_dir).config["recipe"]["init"] == ""
    assert not (run_dir / "bad_images.jsonl").exists()
    assert "holds a run already" in refused(capsys, *arguments)


def test_a_resumed_run_does_as_it_began_unless_told_otherwise(finished):
    _, recipe, options = _starting_point(["--resume", "--run-dir", str(finished[0])])
    assert (recipe.model, recipe.steps) == ("nfnet_nano", 40)
    began = dict(log_every=1, evaluate_every=16, checkpoint_every=8)
    assert options == RunOptions(**began)
    again = ["--resume", "--run-dir", str(finished[0]), "--recipe", "sample"]
    assert _starting_point(again) == ("sample", get_recipe("sample"), options)
    assert options_from_config({}) == RunOptions()
    of_another_version = {"options": {"log_every": 1, "of_another_version": 2}}
    assert options_from_config(of_another_version) == RunOptions(log_every=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "give --run-dir DIR too"),
        (["--resume", "--run-dir", "/nowhere"], "'/nowhere' is not a run directory"),
        (["--recipe", "sampel"], "Unknown recipe 'sampel'. Did you mean 'sample'?"),
        (["--model", "nfnet_mikro"], "Unknown model 'nfnet_mikro'. Did you mean 'nfnet_micro'"),
        (["--data", "/nowhere"], "No folder '/nowhere'"),
        (["--recipe", "folder"], "This recipe needs images: --data DIR"),
        (["--mesh", "data=3"], "needs 3 devices"),
        (["--mesh", "data"], "Cannot read the mesh 'data'"),
        (["--batch-size", "30"], "batch of 30 images does not divide into 8 parts"),
        (["--steps", "0", "--clipping", "0"], "steps=0 must be at least 1; clipping=0.0 must be"),
        (["--dropout", "1"], "dropout=1.0 must be in [0, 1)"),
        (["--seed", "-1"], "seed=-1 must be in"),
        (["--log-every", "0"], "at least 1"),
        (["--threads", "-1"], "threads=-1"),
        (["--keep-checkpoints", "0"], "keep_checkpoints=0 must be at least 1"),
        (["--batch-size", "8000"], "must be at most the 5000 images"),
        (
            ["--batch-size", "8", "--cutmix"],
            "an even number of images at a time: each device has 1 of",
        ),
        (["--run-dir", "/dev/null/run"], "Cannot write a run into '/dev/null/run'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "train", *arguments)
    assert not any(tmp_path.iterdir())


def test_what_is_not_a_run_is_not_trained_over(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "of no run" in refused(capsys, "train", "--run-dir", str(tmp_path), *SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_stopped_run_says_how_to_resume_it_on_the_same_mesh(monkeypatch):
    directory, options = RunDirectory(Path("/my runs/a"), {}), RunOptions(mesh="fsdp=8")
    told = str(_stopped(StopRequest(), 3, directory, options))
    assert told.endswith("nfx train --run-dir '/my runs/a' --mesh fsdp=8 --resume")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert "--resume-if-begun" in str(_stopped(StopRequest(), 3, directory, options))


def test_evaluating_what_is_not_there_is_refused(finished, capsys, tmp_path):
    assert "is not a run directory" in refused(capsys, "evaluate", str(tmp_path))
    error = refused(capsys, "evaluate", str(finished[0]), "--step", "3")
    assert "No checkpoint of step 3" in error
    (tmp_path / "config.json").write_text((finished[0] / "config.json").read_text())
    error = refused(capsys, "evaluate", str(tmp_path))
    assert "No checkpoint in" in error
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_decoder_of_training_images_is_for_training_alone(monkeypatch):
    recipe = dataclasses.replace(get_recipe("sample"), decoder="opencv", crop_area=0.5)
    config = {"recipe": dataclasses.asdict(recipe), "class_names": ["a", "b"]}
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        build_parts(recipe)
    parts = parts_without_images(RunDirectory(Path("run"), config))
    assert list(parts.images.test.class_names) == ["a", "b"]


def test_a_run_whose_images_changed_is_not_continued(finished, capsys, tmp_path):
    config = json.loads((finished[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "images": [5000, 999]}))
    error = refused(capsys, "train", "--run-dir", str(tmp_path), "--resume")
    assert "'images': [5000, 999]" in error
    assert "'images': [5000, 1000]" in error


@pytest.mark.slow
def test_a_folder_of_images_trains(tmp_path):
    for split, count in (("train", 8), ("test", 4)):
        for index, name in enumerate(("red", "blue")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                color = [20 * number, 10, 10]
                color[2 * index] = 255
                Image.new("RGB", (40, 30), tuple(color)).save(folder / f"{number}.jpg")
    run_dir = tmp_path / "run"
    assert main(["train", "--data", str(tmp_path / "images"), "--run-dir", str(run_dir),
                 "--model", "nfnet_nano", "--image-size", "16", "--batch-size", "8", "--steps", "3",
                 "--checkpoint-every", "3"]) == 0  # fmt: skip
    config = json.loads((run_dir / "config.json").read_text())
    assert config["class_names"] == ["blue", "red"]
    assert evaluate(run_dir).ema.examples == 8
