"""The golden files and the rules that made them: see `tests/golden/README.md`."""

import functools as ft
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import nfx
from nfx.weights import from_official, from_timm, official_names
from tests.golden import rules


GOLDEN = Path(__file__).parent / "golden"


def tiny_overrides():
    return dict(
        depths=(1, 2, 1, 1), widths=(32, 64, 96, 96), group_width=16, train_size=32, test_size=32
    )


# One of each family and lineage.
REPRESENTATIVES = (
    "nfnet_f0", "nfnet_f1+", "nf_resnet50", "nf_regnet_b0", "nfnet_nano", "timm/dm_nfnet_f0",
    "timm/nfnet_f0", "timm/nfnet_l0", "timm/eca_nfnet_l0", "timm/nf_regnet_b0", "timm/nf_resnet26",
    "timm/nf_seresnet50", "timm/nf_ecaresnet50", "timm/test_nfnet", "se_resnext50_d",
)  # fmt: skip


def every_model(*, others):
    """The names of all models, for a test; those that represent no family get a mark."""
    return [
        pytest.param(name, marks=() if name in REPRESENTATIVES else others)
        for name in nfx.list_models()
    ]


# The model, and the fields that differ, of each golden file.
PARITY_CASES = {
    "official_nfnet_f0_64": ("nfnet_f0", {}),
    "official_nfnet_f0_97": ("nfnet_f0", {}),
    "official_nfnet_f1_64": ("nfnet_f1", {}),
    "official_tiny_48x40": ("nfnet_f0", tiny_overrides()),
    "official_tiny_33x47": ("nfnet_f0", tiny_overrides()),
    "official_nf_resnet50_64": ("nf_resnet50", {}),
    "official_nf_regnet_b0_64": ("nf_regnet_b0", {}),
    "timm_dm_nfnet_f0_64x64": ("timm/dm_nfnet_f0", {}),
    "timm_eca_nfnet_l0_64x64": ("timm/eca_nfnet_l0", {}),
    "timm_nf_resnet50_64x64": ("timm/nf_resnet50", {}),
    "timm_test_nfnet_49x62": ("timm/test_nfnet", {}),
    "timm_small_nfnet": (
        "timm/nfnet_f0", dict(depths=(1, 2, 1, 1), widths=(32, 64, 96, 96), group_width=16,
             final_expansion=32.0),
    ),
    "timm_small_nf_regnet": (
        "timm/nf_regnet_b0",
        dict(depths=(1, 2, 1, 1), widths=(24, 48, 72, 96), stem_width=24, final_expansion=10.0),
    ),
    "timm_small_nf_seresnet": (
        "timm/nf_seresnet26", dict(depths=(1, 2, 1, 1), widths=(64, 128, 192, 256)),
    ),
    "timm_small_nf_ecaresnet": (
        "timm/nf_ecaresnet26", dict(depths=(1, 2, 1, 1), widths=(64, 128, 192, 256)),
    ),
}  # fmt: skip

# Golden files of the batch-normalized networks.
BATCH_NORM_CASES = {
    "timm_small_resnet": ("resnet50", dict(depths=(1, 2, 1, 1))),
    "timm_small_se_resnext_d": ("se_resnext50_d", dict(depths=(1, 2, 1, 1), groups=(8, 8, 8, 8))),
}


def load_golden(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


@ft.cache
def create_abstract(name, **kwargs):
    return jax.eval_shape(lambda: nfx.create_model(name, key=jax.random.key(0), **kwargs))


def golden_model(golden, name, **kwargs):
    """A model whose parameters follow the golden rule, by the names and shapes of the file."""
    mapping = golden_mapping(golden)
    load = from_official if "/" in next(iter(mapping)) else from_timm
    return load(mapping, create_abstract(name, **kwargs))


def golden_mapping(golden):
    """The parameters of a golden file by their names there."""
    return {
        str(name): make_parameter(str(name), json.loads(str(shape)))
        for name, shape in zip(golden["param_names"], golden["param_shapes"], strict=True)
    }


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
