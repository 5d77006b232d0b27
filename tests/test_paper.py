"""The claims of the paper run, on little data and smaller networks, to conclude nothing from."""

import importlib
import sys

import pytest

import nfx
from benchmarks.paper import _training, batch_norm
from benchmarks.paper._fashion import DIRECTORY, load_fashion


CLAIMS = {
    "sizes": "| nfnet_f6 | 438.4 | 438.4 | 377.28 | 377.28 |",
    "signal_propagation": "| batch norm |",
    "batch_size": "| 64 |",
    "small_batches": "| 16 |",
    "threshold": "adaptive clipping of all but the classifier",
    "ablations": "| + CutMix |",
    "batch_norm": "| nfnet_micro | holds |",
    "private": "| all-reduce | 1 of",
    "transfer": "| labelled digits a class |",
}


NEEDS = {"private": "jax_privacy", "transfer": "sklearn"}


# One block.
SHALLOW = {"depths": (1,), "widths": (32,), "strides": (1,)}


def create_shallow_model(name, **fields):
    groups = {} if name.startswith("nf") else {"groups": (1,)}
    return nfx.create_model(name, **{**fields, **SHALLOW, **groups})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated")  # of jax-privacy 2.0
@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_can_be_looked_at(name, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason="pip install --group paper")
    for module in (_training, batch_norm):
        monkeypatch.setattr(module, "create_model", create_shallow_model)
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--runs", str(tmp_path)])
    importlib.import_module(f"benchmarks.paper.{name}").main()
    page = (tmp_path / f"{name}.md").read_text()
    assert CLAIMS[name] in page
    assert f"`python -m benchmarks.paper.{name}`" in page
    assert list(tmp_path.glob(f"{name}-*.svg"))


def test_trainings_that_ended_are_not_repeated(tmp_path, monkeypatch):
    claims = importlib.import_module("benchmarks.paper._claims")
    setting = _training.Setting(network=_training.NORMALIZER_FREE)
    options = claims.Options(True, (0, 1), tmp_path, tmp_path, tmp_path)
    trained = []

    def make_trainer(setting, data):
        outcome = _training.Outcome(0.5, 1.0, True, 1.0)
        return lambda seed: (trained.append(seed) or outcome, None)

    monkeypatch.setattr(claims, "make_trainer", make_trainer)
    first = claims.train_all("claim", {"a": setting}, options)
    with (tmp_path / "claim-quick.jsonl").open("a") as noted:
        noted.write('{"key": "cut off')
    assert claims.train_all("claim", {"a": setting}, options) == first
    assert trained == [0, 1]
    assert claims.cell(first["a"]) == "50.0 ± 0.0"


def test_without_the_images_it_is_said_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        load_fashion(tmp_path / "none")
    assert DIRECTORY.name == "fashion-mnist"
