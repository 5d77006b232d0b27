"""Normalizer-free convolutional networks as compilable pytrees.

Everything is loaded when first used, so that `import nfx` costs nothing and initializes no
backend.
"""

import importlib
from importlib.metadata import version as _version
from typing import Any, TYPE_CHECKING


if TYPE_CHECKING:
    from nfx import (
        analysis as analysis,
        aot as aot,
        augment as augment,
        checkpoint as checkpoint,
        data as data,
        graph as graph,
        models as models,
        nn as nn,
        optim as optim,
        recipes as recipes,
        serving as serving,
        sharding as sharding,
        testing as testing,
        train as train,
        weights as weights,
    )
    from nfx._units import unit_axes as unit_axes
    from nfx.models import create_model as create_model, list_models as list_models
    from nfx.weights import load_pretrained as load_pretrained


__version__ = _version("nfx")

_PACKAGES = frozenset({
    "analysis", "aot", "augment", "checkpoint", "data", "graph", "models", "nn", "optim", "recipes",
    "serving", "sharding", "testing", "train", "weights",
})  # fmt: skip
_NAMES = {
    "create_model": "nfx.models",
    "list_models": "nfx.models",
    "load_pretrained": "nfx.weights",
    "unit_axes": "nfx._units",
}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"nfx.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'nfx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES, *_NAMES})
