"""Stands in for `fold_weight_standardization`, until it is here."""

from typing import TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from nfx.nn import convolve, STANDARDIZATIONS, WSConv2d


Model = TypeVar("Model", bound=PyTree)


class _FoldedConv2d(eqx.Module):
    weight: Float[Array, "kh kw i_per_group o"]
    bias: Float[Array, " o"]
    stride: int = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    padding: str = eqx.field(static=True)

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "h_out w_out o"]:
        how = {"stride": self.stride, "padding": self.padding, "groups": self.groups}
        return convolve(x, self.weight.astype(x.dtype), **how) + self.bias.astype(x.dtype)


def fold_weight_standardization(model: Model) -> Model:
    """Standardizes every kernel once."""
    is_conv = lambda node: isinstance(node, WSConv2d)
    return jax.tree.map(lambda n: _fold(n) if is_conv(n) else n, model, is_leaf=is_conv)


def _fold(conv: WSConv2d) -> _FoldedConv2d:
    kernel = STANDARDIZATIONS[conv.standardization](conv.weight, conv.gain * conv.gamma)
    return _FoldedConv2d(kernel, conv.bias, conv.stride, conv.groups, conv.padding)
