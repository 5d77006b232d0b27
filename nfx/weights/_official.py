"""Weights of the official code (Haiku). Kernels are HWIO there too: nothing is transposed."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from nfx._tree import leaves_by_path
from nfx.weights._rename import fill, Model


class Rename(NamedTuple):
    r"""Leaf paths that match `pattern` are called `name` in the official code.

    Attributes:
        pattern: A regular expression for the whole path.
        name: The official name, with `\1` for groups and `{block}` for the official module
            name of the block: `nf_block`, `nf_block_1`, counted over the whole network.
    """

    pattern: str
    name: str


_BLOCK = r"stages/\d+/blocks/\d+/"

_NAME = r"NFNet/~/{block}/~/"

NFNET_RENAMES = (
    Rename(r"stem/(\d+)/weight",                    r"NFNet/~/stem_conv\1/w"),
    Rename(r"stem/(\d+)/(gain|bias)",               r"NFNet/~/stem_conv\1/\2"),
    Rename(_BLOCK + r"(conv\w+)/weight",            _NAME + r"\1/w"),
    Rename(_BLOCK + r"(conv\w+)/(gain|bias)",       _NAME + r"\1/\2"),
    Rename(_BLOCK + r"squeeze_excite/fc0/(w|b)\w+", _NAME + r"squeeze_excite/~/linear/\1"),
    Rename(_BLOCK + r"squeeze_excite/fc1/(w|b)\w+", _NAME + r"squeeze_excite/~/linear_1/\1"),
    Rename(_BLOCK + r"skip_gain",                   r"NFNet/~/{block}/skip_gain"),
    Rename(r"final_conv/weight",                    r"NFNet/~/final_conv/w"),
    Rename(r"final_conv/(gain|bias)",               r"NFNet/~/final_conv/\1"),
    Rename(r"head/(w|b)\w+",                        r"NFNet/~/linear/\1"),
)  # fmt: skip


def official_names(model: PyTree) -> dict[str, str]:
    """Returns the official name of each leaf path of `model`.

    Raises:
        ValueError: If a leaf has none: the model is of no official family.
    """
    paths = list(leaves_by_path(model))
    blocks = dict.fromkeys(match[0] for path in paths if (match := re.match(_BLOCK, path)))
    numbers = {prefix: number for number, prefix in enumerate(blocks)}
    return {path: _official_name(path, numbers) for path in paths}


def from_official(mapping: Mapping[str, Any], model: Model) -> Model:
    """Fills a model with parameters of the official code.

    Args:
        mapping: Arrays by official name: the module's and the parameter's, joined by a slash,
            as `"NFNet/~/nf_block_1/~/conv0/w"`.
        model: A model of the same variant, classes and channels. Its values do not matter:
            `jax.eval_shape` of `create_model` will do.

    Raises:
        ValueError: Listing every name and shape that does not fit.
    """
    return fill(model, mapping, official_names(model))


def to_official(model: PyTree) -> dict[str, np.ndarray]:
    """Returns the parameters of `model` by official name: the inverse of `from_official`."""
    leaves = leaves_by_path(model)
    return {name: np.asarray(leaves[path]) for path, name in official_names(model).items()}


def _official_name(path: str, numbers: Mapping[str, int]) -> str:
    for pattern, name in NFNET_RENAMES:
        if match := re.fullmatch(pattern, path):
            prefix = re.match(_BLOCK, path)
            number = numbers[prefix[0]] if prefix else 0
            return match.expand(name).replace(
                "{block}", f"nf_block_{number}" if number else "nf_block"
            )
    raise ValueError(
        f"{path!r} has no name in the official code. Its models are the NFNets: "
        "nfx.list_models('nfnet_f*')."
    )
