"""Runs whose blocks are stacked, and what is made of them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from nfx.checkpoint import CheckpointStore
from nfx.cli import main
from nfx.data import Batch
from nfx.recipes import build_parts, load_classifier, Recipe
from nfx.sharding import make_mesh, place_batch
from nfx.train import create_state, RunDirectory
from nfx.weights import to_official


SMALL = Recipe(model="nfnet_micro", batch_size=32, steps=2, warmup_steps=1.0, mixup=0.2)
STACKED = dataclasses.replace(SMALL, stack=True, remat="full", unroll=2)


def first_state(recipe):
    parts = build_parts(recipe)
    mesh = make_mesh({"data": 2}, jax.devices()[:2])
    return parts, mesh, create_state(parts.build_model, parts.optimizer, mesh)


def expect_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)


@pytest.mark.slow
def test_the_classifier_of_a_stacked_run_has_plain_blocks(tmp_path):
    parts, _, state = first_state(STACKED)
    config = {
        "recipe": dataclasses.asdict(STACKED),
        "class_names": list(parts.images.train.class_names),
    }
    directory = RunDirectory.create(tmp_path / "run", config)
    with CheckpointStore(directory.checkpoints, keep=1) as store:
        store.save(0, state, config)
    classifier = load_classifier(directory.path)
    plain = jax.jit(build_parts(SMALL).build_model)()
    assert jax.tree.structure(classifier.model) == jax.tree.structure(plain)
    assert jax.tree.structure(state.model) != jax.tree.structure(plain)
    expect_equal(to_official(classifier.model), to_official(plain))
    expect_equal(to_official(state.ema), to_official(plain))


def three_losses(recipe):
    parts, mesh, state = first_state(recipe)
    step = parts.train_step(mesh)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 28, 28, 1), np.uint8), np.arange(8, dtype=np.int32)
    losses = []
    for _ in range(3):
        state, metrics = step(state, place_batch(Batch(images, labels), mesh), parts.key)
        losses.append(float(metrics["loss"]))
    return losses


@pytest.mark.slow
def test_a_stacked_run_has_the_losses_of_a_plain_one():
    np.testing.assert_allclose(three_losses(STACKED), three_losses(SMALL), rtol=1e-5)


@pytest.mark.long
def test_a_run_with_all_that_saves_memory_is_a_run(tmp_path, capsys):
    """Trained, evaluated on its own, predicted with and exported."""
    run, image, artifact = (tmp_path / name for name in ("run", "image.png", "run.nfx"))
    assert main([
        "train", "--run-dir", str(run), "--model", "nfnet_micro", "--batch-size", "32",
        "--steps", "2", "--mixup", "0.2", "--stack", "--remat", "convs", "--unroll", "2",
        "--microbatches", "2", "--precision", "mixed",
    ]) == 0  # fmt: skip
    result = json.loads((run / "result.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ema"]["accuracy"] == result["test_accuracy"]
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(pixels).save(image)
    assert main(["export", str(run), "--output", str(artifact)]) == 0
    capsys.readouterr()
    answers = []
    for source in (run, artifact):
        assert main(["predict", str(source), str(image), "--json"]) == 0
        classes = json.loads(capsys.readouterr().out)["classes"]
        answers.append({each["name"]: each["probability"] for each in classes})
    assert len(answers[0]) == 5
    assert answers[0] == pytest.approx(answers[1], rel=1e-4)
