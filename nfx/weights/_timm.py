"""Weights of timm's `NormFreeNet` (PyTorch): outputs come first there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import PyTree

from nfx._tree import leaves_by_path
from nfx.weights._rename import (
    complete,
    export,
    fill,
    ForeignLeaf,
    Model,
    Module,
    Parameter,
    rename,
)


_BLOCK = r"stages/(\d+)/blocks/(\d+)"

_MODULES = (
    Module(_BLOCK,                             r"stages.\1.\2"),
    Module(_BLOCK + r"/conv0",                 r"stages.\1.\2.conv1"),
    Module(_BLOCK + r"/conv1",                 r"stages.\1.\2.conv2"),
    Module(_BLOCK + r"/conv1b",                r"stages.\1.\2.conv2b"),
    Module(_BLOCK + r"/conv2",                 r"stages.\1.\2.conv3"),
    Module(_BLOCK + r"/conv_shortcut",         r"stages.\1.\2.downsample.conv"),
    Module(_BLOCK + r"/inner_attention/fc0",   r"stages.\1.\2.attn.fc1"),
    Module(_BLOCK + r"/inner_attention/fc1",   r"stages.\1.\2.attn.fc2"),
    Module(_BLOCK + r"/inner_attention",       r"stages.\1.\2.attn.conv"),
    Module(_BLOCK + r"/attention/fc0",         r"stages.\1.\2.attn_last.fc1"),
    Module(_BLOCK + r"/attention/fc1",         r"stages.\1.\2.attn_last.fc2"),
    Module(_BLOCK + r"/attention",             r"stages.\1.\2.attn_last.conv"),
    Module(r"final_conv",                      r"final_conv"),
    Module(r"head",                            r"head.fc"),
)  # fmt: skip

_DEEP_STEM = tuple(Module(f"stem/{index}", f"stem.conv{index + 1}") for index in range(4))

_STEMS = {
    "NFNet":     _DEEP_STEM,
    "NF-ResNet": (Module("stem/0", "stem.conv"),),
    "NF-RegNet": (Module("stem/0", "stem.conv"),),
}  # fmt: skip

_PARAMETERS = (
    Parameter(r"head/weight",                "weight",        "OI"),
    Parameter(r"fc[01]/weight",              "weight",        "OI11"),
    Parameter(r"(inner_)?attention/weight",  "weight",        "11K"),
    Parameter(r"weight",                     "weight",        "OIHW"),
    Parameter(r"gain",                       "gain",          "O111"),
    Parameter(r"skip_gain",                  "skipinit_gain"),
    Parameter(r"bias",                       "bias"),
)  # fmt: skip


def timm_names(model: PyTree) -> dict[str, str]:
    """Returns timm's name of each leaf path of `model`.

    Raises:
        ValueError: If a leaf has none: the model is not normalizer-free.
    """
    return {path: leaf.name for path, leaf in _timm_leaves(model).items()}


def from_timm(mapping: Mapping[str, Any], model: Model, *, strict: bool = True) -> Model:
    """Fills a model with parameters of timm.

    Names carry no conventions: the model's own stay (see `nfx.models.CONVENTIONS`).

    Args:
        mapping: Arrays by the names of timm's `state_dict`, as `"stages.1.0.conv1.weight"`,
            in its layout.
        model: A model of the same variant, classes and channels. Its values do not matter:
            `jax.eval_shape` of `create_model` will do.
        strict: If not, a classifier of another number of classes is left as it is in `model`,
            with a warning that says so. Everything else must fit all the same.

    Raises:
        ValueError: Listing every name and shape that does not fit.
    """
    return fill(model, mapping, _timm_leaves, strict=strict)


def to_timm(model: PyTree) -> dict[str, np.ndarray]:
    """Returns the parameters of `model` as timm has them: the inverse of `from_timm`."""
    return export(model, _timm_leaves)


def _timm_leaves(model: PyTree) -> dict[str, ForeignLeaf]:
    family = getattr(model, "family", None)
    if family not in _STEMS:
        raise ValueError(
            f"A {type(model).__name__} has no counterpart among timm's NormFreeNets: the "
            f"{', '.join(_STEMS)} variants."
        )
    modules = (*_STEMS[family], *_MODULES)
    paths = leaves_by_path(model)
    return complete({path: rename(path, modules, _PARAMETERS, ".") for path in paths}, "timm")
