"""The Python of the README and of the pages in docs runs, as it stands."""

import re
from pathlib import Path

import jax
import pytest

from nfx.weights import write_weights
from tests.reference import golden_mapping, load_golden


ROOT = Path(__file__).parents[1]
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "```python\n" in page.read_text()]


def run_blocks(page):
    """Runs the blocks of Python in order, as one program, and returns its names."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    names = {"__name__": "page"}
    with jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, str(page), "exec"), names)
    return names


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Pages run in a directory of their own, where there are the weights that they load."""
    monkeypatch.chdir(tmp_path)
    write_weights("weights.safetensors", golden_mapping(load_golden("timm_test_nfnet_49x62")))


def test_every_block_runs_in_order():
    names = run_blocks(ROOT / "README.md")
    assert names["logits"].shape == (8, 10)
    assert names["per_example"].head.bias.shape == (8, 10)
    assert names["gray"].stem[0].weight.shape[2] == 1
    assert names["theirs"].head.bias.shape == (1000,)
    assert names["f7"].head.weight.shape == (4096, 1000)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated")  # of jax-privacy 2.0
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs(page):
    run_blocks(page)
