"""The examples run, as a user would run them."""

import subprocess
import sys
from pathlib import Path

import jax

import nfx
from nfx.weights import to_timm, write_weights


EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_finetune(tmp_path):
    model = jax.jit(lambda: nfx.create_model("nfnet_nano", num_classes=7, key=jax.random.key(0)))()
    write_weights(tmp_path / "weights.safetensors", to_timm(model))
    script = EXAMPLES / "finetune.py"
    done = run(script, tmp_path / "weights.safetensors", "--model", "nfnet_nano", "--steps", "30")
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.split()[-1].rstrip("%"))
    assert accuracy > 25, "a linear classifier on random features beats chance"
    missing = run(script, tmp_path / "none.safetensors")
    assert "neither a file nor the name of weights" in missing.stderr
