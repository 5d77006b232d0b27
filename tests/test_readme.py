"""The README's Python runs, as it stands."""

import re
from pathlib import Path

import jax


README = Path(__file__).parents[1] / "README.md"


def test_every_block_runs_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    names = {}
    with jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, str(README), "exec"), names)
    assert names["logits"].shape == (8, 10)
    assert names["per_example"].head.bias.shape == (8, 10)
    assert names["f7"].head.weight.shape == (4096, 1000)
