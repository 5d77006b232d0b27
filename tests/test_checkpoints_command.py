"""`nfx checkpoints`, as typed, on a run whose checkpoints were written without training."""

import dataclasses
import gc
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from nfx._tree import leaves_by_path
from nfx.checkpoint import CheckpointError, CheckpointStore
from nfx.cli import main
from nfx.recipes import (
    _checkpoints,
    build_parts,
    evaluate,
    load_classifier,
    Recipe,
)
from nfx.sharding import make_mesh
from nfx.train import create_state, lock_directory, RunDirectory


# Orbax leaves futures of a failed read behind, which complain when they are collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.slow,
    pytest.mark.xdist_group("checkpoints"),
]

RECIPE = Recipe(model="nfnet_nano")
SCORES = {10: 0.2, 20: 0.8, 30: None, 40: 0.3}


def scaled(tree, factor):
    return jax.tree.map(lambda x: x * factor if x.dtype == np.float32 else x, tree)


def write_run(path, recipe):
    """A run whose parameters are the first ones times 1, 2, ... and their averages the same."""
    parts = build_parts(recipe)
    state = create_state(
        parts.build_model, parts.optimizer, make_mesh({"data": 1}, jax.devices()[:1])
    )
    config = {
        "recipe": dataclasses.asdict(recipe),
        "class_names": list(parts.images.train.class_names),
    }
    directory = RunDirectory.create(path, config)
    with CheckpointStore(directory.checkpoints) as store:
        for number, (step, score) in enumerate(SCORES.items(), start=1):
            store.save(step, scaled(state, np.float32(number) ** 2), config, score=score)
    return state


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return path, write_run(path, RECIPE)


@pytest.fixture
def run(written, tmp_path):
    yield shutil.copytree(written[0], tmp_path / "run")
    gc.collect()  # so that futures complain here, and not in another test


def steps_of(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def test_they_are_listed(run, capsys):
    shutil.copytree(run / "checkpoints" / "30", run / "checkpoints.damaged" / "35")
    assert main(["checkpoints", str(run)]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()[:1].isdigit()}
    assert list(rows) == ["10", "20", "30", "40"]
    assert "80.00%" in rows["20"]
    assert rows["20"].split()[-1] == "best"
    assert rows["40"].split()[-1] == "latest"
    assert "%" not in rows["30"]
    assert f"Step 35 was damaged and is put aside: {run / 'checkpoints.damaged' / '35'}" in out


def test_they_are_listed_as_json(run, capsys):
    assert main(["checkpoints", str(run), "list", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {record["step"]: record["test_accuracy"] for record in found} == SCORES
    files = [path for path in (run / "checkpoints" / "20").rglob("*") if path.is_file()]
    assert found[1]["bytes"] == sum(path.stat().st_size for path in files)


def test_whole_ones_are_verified(run, capsys):
    assert main(["checkpoints", str(run), "verify"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["step", str(step), "whole"] for step in SCORES
    ]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["state", "record"])
def test_verifying_finds_one_flipped_bit(run, capsys, name):
    files = [path for path in (run / "checkpoints" / "20" / name).rglob("*") if path.is_file()]
    flip_a_bit(max(files, key=lambda path: path.stat().st_size))
    assert main(["checkpoints", str(run), "verify"]) == 1
    out, error = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines() if "whole" in line] == ["10", "30", "40"]
    assert "step       20  The checkpoint of step 20 in" in out
    assert "1 of the checkpoints cannot be used" in error
    assert main(["checkpoints", str(run), "verify", "10", "40"]) == 0


def test_the_mean_is_that_of_numpy():
    rng = np.random.default_rng(0)
    models = [{"w": rng.normal(size=(3, 5)).astype(np.float32)} for _ in range(7)]
    expected = np.mean([model["w"] for model in models], axis=0, dtype=np.float64)
    found = _checkpoints.mean_model(models)["w"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("parameters", ["ema", "raw"])
def test_an_average_is_a_file_of_weights_that_says_what_it_is_of(run, written, parameters, capsys):
    arguments = ["checkpoints", str(run), "average", "10", "20", "40", "--no-evaluate"]
    assert main([*arguments, "--parameters", parameters]) == 0
    path = run / "average.safetensors"
    assert f"nfx predict {path} IMAGES" in capsys.readouterr().out
    of_run, of_file = load_classifier(run), load_classifier(path)
    assert dataclasses.replace(of_file, model=None) == dataclasses.replace(of_run, model=None)
    state = written[1]
    first = state.ema if parameters == "ema" else state.model
    expected = {name: np.asarray(leaf) * 7 for name, leaf in leaves_by_path(first).items()}
    found = leaves_by_path(of_file.model)  # 1, 4 and 16 times the first
    assert found.keys() == expected.keys()
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_stacked_run_is_averaged_too(tmp_path):
    recipe = dataclasses.replace(RECIPE, model="nfnet_micro", stack=True)
    state = write_run(tmp_path / "run", recipe)
    assert main(["checkpoints", str(tmp_path / "run"), "average", "10", "20", "--no-evaluate"]) == 0
    found = load_classifier(tmp_path / "run" / "average.safetensors")
    plain = jax.jit(build_parts(dataclasses.replace(recipe, stack=False)).build_model)()
    assert jax.tree.structure(state.model) != jax.tree.structure(plain)
    for name, leaf in leaves_by_path(plain).items():
        expected = 2.5 * np.asarray(leaf)  # of 1 and 4 times the first
        np.testing.assert_allclose(leaves_by_path(found.model)[name], expected, rtol=1e-6)


def test_an_average_is_evaluated_beside_the_single_ones(run, capsys):
    assert main(["checkpoints", str(run), "average", "10", "40"]) == 0
    out = capsys.readouterr().out.splitlines()
    for step, line in zip((10, 40), out, strict=False):
        found = evaluate(run, step=step).ema
        expected = f"accuracy {found.accuracy:.2%}  loss {found.loss:.4f}"
        assert line == f"step       {step}  {expected}"
    assert out[2].startswith("their mean     accuracy ")


def test_the_best_is_evaluated_and_predicted_with(run, tmp_path, capsys):
    assert evaluate(run, step="best") == evaluate(run, step=20)
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "image.png")
    answers = []
    for name in ("best", "20", "40"):
        assert main(["predict", f"{run}@{name}", str(tmp_path / "image.png"), "--json"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != answers[2]


def test_pruning_keeps_the_latest_and_the_best(run, capsys):
    assert main(["checkpoints", str(run), "prune"]) == 0
    out = capsys.readouterr().out
    assert "Kept: 20, 40\nTo be removed: 10, 30 (" in out
    assert "add --yes" in out
    assert steps_of(run) == [10, 20, 30, 40]
    assert main(["checkpoints", str(run), "prune", "--yes", "--also", "10"]) == 0
    assert steps_of(run) == [10, 20, 40]
    assert main(["checkpoints", str(run), "prune", "--yes"]) == 0
    assert steps_of(run) == [20, 40]
    assert "Removed: 10 (" in capsys.readouterr().out


def test_damaged_ones_are_neither_counted_nor_removed_by_pruning(run, capsys):
    flip_a_bit(run / "checkpoints" / "40" / "_CHECKPOINT_METADATA")
    assert main(["checkpoints", str(run), "prune"]) == 0
    assert "Kept: 20, 30\nTo be removed: 10 (" in capsys.readouterr().out
    assert main(["checkpoints", str(run), "prune", "--yes"]) == 0
    words = "its file '_CHECKPOINT_METADATA' is not what was written. It does not count"
    assert f"Step 40 is damaged: {words}" in capsys.readouterr().out
    assert steps_of(run) == [20, 30, 40]
    flip_a_bit(run / "checkpoints" / "20" / "_CHECKPOINT_METADATA")
    assert main(["checkpoints", str(run), "prune", "--yes"]) == 0
    assert steps_of(run) == [20, 30, 40]
    flip_a_bit(run / "checkpoints" / "30" / "_CHECKPOINT_METADATA")
    assert main(["checkpoints", str(run), "prune", "--yes"]) == 0
    assert "Kept: none\nRemoved: none" in capsys.readouterr().out
    assert steps_of(run) == [20, 30, 40]


def test_what_cannot_be_read_now_is_not_judged_by_pruning(run, monkeypatch, capsys):
    def failing(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("nfx.checkpoint._files.file_digest", failing)
    assert main(["checkpoints", str(run), "prune", "--yes"]) == 1
    assert "of step 40 in" in (told := capsys.readouterr().err)
    assert "cannot be read: its file" in told
    assert steps_of(run) == [10, 20, 30, 40]


def test_the_best_of_the_whole_ones_is_kept(run, capsys):
    for step in ("20", "40"):
        flip_a_bit(run / "checkpoints" / step / "_CHECKPOINT_METADATA")
    assert main(["checkpoints", str(run), "prune", "--yes"]) == 0
    assert "Kept: 10, 30\nRemoved: none" in capsys.readouterr().out
    assert steps_of(run) == [10, 20, 30, 40]


def test_what_a_run_removes_meanwhile_is_not_listed(run, monkeypatch, capsys):
    size, opened = _checkpoints._bytes, []

    def vanishing(folder):
        if folder.name == "20":
            shutil.rmtree(folder)
        return size(folder)

    def made(store):
        opened.append(store)
        if len(opened) == 1:
            raise FileNotFoundError("as Orbax does")
        return make(store)

    make = CheckpointStore._open
    monkeypatch.setattr(_checkpoints, "_bytes", vanishing)
    monkeypatch.setattr(CheckpointStore, "_open", made)
    assert main(["checkpoints", str(run), "list", "--json"]) == 0
    found = [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()]
    assert found == [10, 30, 40]


def test_what_a_run_removes_meanwhile_is_not_damaged(run, monkeypatch, capsys):
    def restore(directory, parts, step):
        folder = directory.checkpoints / str(step)
        if step == 20:
            (folder / "_CHECKPOINT_METADATA").unlink(missing_ok=True)
            raise CheckpointError("its file is missing")

    monkeypatch.setattr(_checkpoints, "restore_run", restore)
    monkeypatch.setattr(
        _checkpoints.time, "sleep", lambda _: shutil.rmtree(run / "checkpoints" / "20")
    )
    assert main(["checkpoints", str(run), "verify"]) == 0
    steps = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert steps == ["10", "30", "40"]
    assert main(["checkpoints", str(run), "verify", "20"]) == 1


def test_a_run_that_is_going_on_is_not_pruned(run, capsys):
    with lock_directory(run, say=print):
        assert main(["checkpoints", str(run), "prune", "--yes"]) == 1
    assert "is in use by another process" in capsys.readouterr().err
    assert steps_of(run) == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--keep", "0"], "keep=0 must be at least 1"),
        (["prune", "--also", "15", "--yes"], "no checkpoint of step 15: it has 10, 20, 30, 40"),
        (["average", "20", "--no-evaluate"], "step 20 is one"),
        (["average", "10", "20", "10", "--no-evaluate"], "Step 10 is given 2 times"),
        (["average", "20", "25", "--no-evaluate"], "No checkpoint of step 25 in"),
        (["average", "--output", "x.npz", "--no-evaluate"], "must end in .safetensors"),
    ],
)
def test_what_cannot_be_done_is_refused(run, capsys, arguments, message):
    assert main(["checkpoints", str(run), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert steps_of(run) == [10, 20, 30, 40]


def test_what_is_not_a_run_is_said(tmp_path, capsys):
    assert main(["checkpoints", str(tmp_path)]) == 1
    assert "is not a run directory" in capsys.readouterr().err


def test_a_batch_normalized_run_is_not_averaged(tmp_path, capsys):
    recipe = dataclasses.replace(RECIPE, model="resnet50")
    RunDirectory.create(tmp_path / "run", {"recipe": dataclasses.asdict(recipe)})
    assert main(["checkpoints", str(tmp_path / "run"), "average", "10", "20"]) == 1
    assert "resnet50 is batch-normalized" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "{run}@best", "--step", "40"], "both say which checkpoint"),
        (["report", "{run}@20", "--step", "best"], "both say which checkpoint"),
        (["evaluate", "{run}@bset"], "not 'bset'. '{run}' has the steps 10, 20, 30, 40"),
        (["report", "{run}@5"], "No checkpoint of step 5 in"),
        (["evaluate", "{run}-not@best"], "nor the name of weights"),
    ],
)
def test_checkpoints_that_are_not_there_are_said(run, capsys, arguments, message):
    assert main([argument.format(run=run) for argument in arguments]) == 1
    assert message.format(run=run) in capsys.readouterr().err
