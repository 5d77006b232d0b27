"""The examples run, as a user would run them."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

import nfx
from nfx.data import open_sources, survey
from nfx.testing import CLIPPING_LAWS
from nfx.weights import to_timm, write_weights


EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_fine_tuning_runs(tmp_path):
    model = jax.jit(lambda: nfx.create_model("nfnet_nano", num_classes=7, key=jax.random.key(0)))()
    write_weights(tmp_path / "weights.safetensors", to_timm(model))
    script = EXAMPLES / "finetune.py"
    done = run(script, tmp_path / "weights.safetensors", "--model", "nfnet_nano", "--steps", "30")
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.split()[-1].rstrip("%"))
    assert accuracy > 25, "a linear classifier on random features beats chance"
    missing = run(script, tmp_path / "none.safetensors")
    assert "nor the name of weights" in missing.stderr


@pytest.mark.slow
def test_clipping_your_model_runs():
    done = run(EXAMPLES / "agc_on_your_model.py", "--steps", "100")
    assert done.returncode == 0, done.stderr
    assert "149 units in 9 of 10 leaves are clipped" in done.stdout
    assert "Law 'bound'" in done.stdout
    assert float(done.stdout.split()[-1].rstrip("%")) > 60


@pytest.mark.slow
def test_your_own_clipper_is_tested():
    script = EXAMPLES / "test_your_own_clipper.py"
    done = run("-m", "pytest", script, "-p", "no:cacheprovider", "--rootdir", script.parent)
    assert done.returncode == 0, done.stdout
    assert f"{len(CLIPPING_LAWS) - 1} passed, 1 skipped" in done.stdout  # stacks of modules


@pytest.mark.long
def test_a_clipper_with_a_bug_fails_with_its_counterexample(tmp_path):
    source = (EXAMPLES / "test_your_own_clipper.py").read_text()
    right, wrong = "jnp.maximum(unit_norm(parameter), eps)", "(unit_norm(parameter) + eps)"
    assert right in source
    (tmp_path / "test_mine.py").write_text(source.replace(right, wrong))
    done = run("-m", "pytest", tmp_path / "test_mine.py", "-p", "no:cacheprovider")
    assert done.returncode == 1
    assert "Law 'bound': the norm of a unit is at most clipping * max(" in done.stdout


def test_a_folder_of_shapes_is_made_and_trained_on(tmp_path):
    assert run(EXAMPLES / "shapes.py", tmp_path / "shapes", "--images", "12").returncode == 0
    train, test = open_sources(tmp_path / "shapes")
    assert (len(train), len(test)) == (44, 4)
    found = survey(train)
    assert not found.bad
    assert set(found.kinds) == {"JPEG RGB", "JPEG L", "PNG RGBA", "GIF P"}
