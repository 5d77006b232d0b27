"""Weights of the official code (Haiku). Kernels are HWIO there too: nothing is transposed."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import PyTree

from nfx._tree import leaves_by_path
from nfx.weights._files import flatten
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


_BLOCK = r"stages/\d+/blocks/\d+"

# The official names of an architecture and of its blocks.
_ROOTS = {
    "NFNet":     ("NFNet",     "nf_block"),
    "NF-ResNet": ("NF_ResNet", "nf_res_block"),
    "NF-RegNet": ("NF_RegNet", "nf_block"),
}  # fmt: skip

# {root} is the architecture's name; {block} that of a block, `nf_block`, `nf_block_1`, counted
# over the whole network.
_MODULES = (
    Module(_BLOCK,                         r"{root}/~/{block}"),
    Module(_BLOCK + r"/(conv\w+)",         r"{root}/~/{block}/~/\1"),
    Module(_BLOCK + r"/\w*attention/fc0",  r"{root}/~/{block}/~/squeeze_excite/~/linear"),
    Module(_BLOCK + r"/\w*attention/fc1",  r"{root}/~/{block}/~/squeeze_excite/~/linear_1"),
    Module(r"final_conv",                  r"{root}/~/final_conv"),
    Module(r"head",                        r"{root}/~/linear"),
)  # fmt: skip

_STEMS = {
    "NFNet":     Module(r"stem/(\d+)", r"{root}/~/stem_conv\1"),
    "NF-ResNet": Module(r"stem/0",     r"{root}/~/initial_conv"),
    "NF-RegNet": Module(r"stem/0",     r"{root}/~/initial_conv"),
}  # fmt: skip

_PARAMETERS = (
    Parameter(r"weight",             "w"),
    Parameter(r"gain",               "gain"),
    Parameter(r"skip_gain",          "skip_gain"),
    Parameter(r"(head|fc[01])/bias", "b"),
    Parameter(r"bias",               "bias"),
)  # fmt: skip


def official_names(model: PyTree) -> dict[str, str]:
    """Returns the official name of each leaf path of `model`.

    Raises:
        ValueError: If a leaf has none: the model is of no official family.
    """
    return {path: leaf.name for path, leaf in _official_leaves(model).items()}


def from_official(mapping: Mapping[str, Any], model: Model, *, strict: bool = True) -> Model:
    """Fills a model with parameters of the official code.

    Names carry no conventions: the model's own stay (see `nfx.models.CONVENTIONS`).

    Args:
        mapping: Arrays by official name, the module's and the parameter's joined by a slash,
            as `"NFNet/~/nf_block_1/~/conv0/w"`; or by module and then by parameter, as in
            Haiku.
        model: A model of the same variant, classes and channels. Its values do not matter:
            `jax.eval_shape` of `create_model` will do.
        strict: If not, a classifier of another number of classes is left as it is in `model`,
            with a warning that says so. Everything else must fit all the same.

    Raises:
        ValueError: Listing every name and shape that does not fit.
    """
    return fill(model, flatten(mapping), _official_leaves, strict=strict)


def to_official(model: PyTree) -> dict[str, np.ndarray]:
    """Returns the parameters of `model` by official name: the inverse of `from_official`."""
    return export(model, _official_leaves)


def _official_leaves(model: PyTree) -> dict[str, ForeignLeaf]:
    family = getattr(model, "family", None)
    if family not in _ROOTS:
        raise ValueError(
            f"A {type(model).__name__} has no counterpart in the official code, whose models are "
            f"the {', '.join(_ROOTS)} variants."
        )
    root, block = _ROOTS[family]
    modules = (_STEMS[family], *_MODULES)
    paths = list(leaves_by_path(model))
    blocks = dict.fromkeys(match[0] for path in paths if (match := re.match(_BLOCK, path)))
    numbers = {prefix: number for number, prefix in enumerate(blocks)}

    def official(path: str) -> ForeignLeaf | None:
        leaf = rename(path, modules, _PARAMETERS, "/")
        prefix = re.match(_BLOCK, path)
        number = numbers[prefix[0]] if prefix else 0
        numbered = f"{block}_{number}" if number else block
        return leaf and leaf._replace(name=leaf.name.format(root=root, block=numbered))

    return complete({path: official(path) for path in paths}, "the official code")
