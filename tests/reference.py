"""The golden files and the rules that made them: see `tests/golden/README.md`."""

import json
from pathlib import Path

import jax
import numpy as np

import nfx
from nfx.weights import from_official, from_timm, official_names
from tests.golden import rules


GOLDEN = Path(__file__).parent / "golden"


# Golden files of the batch-normalized networks.
BATCH_NORM_CASES = {
    "timm_small_resnet": ("resnet50", dict(depths=(1, 2, 1, 1))),
    "timm_small_se_resnext_d": ("se_resnext50_d", dict(depths=(1, 2, 1, 1), groups=(8, 8, 8, 8))),
}


def load_golden(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def tiny_overrides():
    return dict(
        depths=(1, 2, 1, 1), widths=(32, 64, 96, 96), group_width=16, train_size=32, test_size=32
    )


def create_abstract(name, **kwargs):
    return jax.eval_shape(lambda: nfx.create_model(name, key=jax.random.key(0), **kwargs))


def golden_model(golden, name, **kwargs):
    """A model whose parameters follow the golden rule, by the names and shapes of the file."""
    mapping = {
        str(parameter): make_parameter(str(parameter), json.loads(str(shape)))
        for parameter, shape in zip(golden["param_names"], golden["param_shapes"], strict=True)
    }
    load = from_official if "/" in next(iter(mapping)) else from_timm
    return load(mapping, create_abstract(name, **kwargs))


def make_parameter(name, shape):
    """The golden rule's value for a reference's parameter, by its name there."""
    make = rules.official_param if "/" in name else rules.timm_param
    return make(name, tuple(shape))


def official_model(name, **kwargs):
    """A model whose parameters follow the golden rule, loaded by their official names."""
    model = create_abstract(name, **kwargs)
    leaves = jax.tree.leaves(model)
    mapping = {
        official: make_parameter(official, leaf.shape)
        for official, leaf in zip(official_names(model).values(), leaves, strict=True)
    }
    return from_official(mapping, model)


def meta(golden):
    return json.loads(str(golden["meta"]))
