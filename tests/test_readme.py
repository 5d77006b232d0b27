"""The README's Python runs, as it stands."""

import re
from pathlib import Path

import jax

from nfx.weights import write_weights
from tests.reference import golden_mapping, load_golden


README = Path(__file__).parents[1] / "README.md"


def test_every_block_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_weights("weights.safetensors", golden_mapping(load_golden("timm_test_nfnet_49x62")))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    names = {}
    with jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, str(README), "exec"), names)
    assert names["logits"].shape == (10,)
    assert names["per_example"].head.bias.shape == (8, 10)
    assert names["pooled"].shape == (192,)
    assert names["gray"].stem[0].weight.shape == (3, 3, 1, 16)
    assert names["activations"]["stages/2/blocks/0/conv1"].shape == (2, 2, 24)
    assert names["f7"].head.weight.shape == (4096, 1000)
