"""The golden files and the rules that made them: see `tests/golden/README.md`."""

import json
from pathlib import Path

import jax
import numpy as np

import nfx
from nfx.weights import from_official, official_names
from tests.golden import rules


GOLDEN = Path(__file__).parent / "golden"


def load_golden(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def tiny_overrides():
    return dict(
        depths=(1, 2, 1, 1), widths=(32, 64, 96, 96), group_width=16, train_size=32, test_size=32
    )


def create_abstract(name, **kwargs):
    return jax.eval_shape(lambda: nfx.create_model(name, key=jax.random.key(0), **kwargs))


def official_model(name, **kwargs):
    """A model whose parameters follow the golden rule, loaded by their official names."""
    model = create_abstract(name, **kwargs)
    leaves = jax.tree.leaves(model)
    mapping = {
        official: rules.official_param(official, leaf.shape)
        for official, leaf in zip(official_names(model).values(), leaves, strict=True)
    }
    return from_official(mapping, model)


def meta(golden):
    return json.loads(str(golden["meta"]))
