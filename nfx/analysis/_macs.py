"""Multiply-accumulates, counted on the graph."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jaxtyping import PyTree

from nfx.models import apply_batch, initial_statistics


def count_macs(function: Callable[..., Any], *args: Any) -> int:
    """Counts the multiply-accumulates of the matrix products and convolutions of a function.

    Everything else (biases, activations, pooling, weight standardization) is not counted, as
    in the papers. A convolution counts its padding. Of the branches of a `cond` the largest
    counts, and the body of a `while` once.

    Args:
        function: A function of arrays.
        *args: Its arguments; they may be abstract.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def model_macs(model: PyTree, image_size: int) -> int:
    """Counts the multiply-accumulates of `model` on one square image, in inference.

    Args:
        model: Any model of `create_model`; its leaves may be abstract.
        image_size: Side of the image, in pixels.
    """
    channels = jax.tree.leaves(model.stem)[0].shape[2]
    images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    statistics = jax.eval_shape(initial_statistics, model)
    return count_macs(apply_batch, model, statistics, images)


def _count(jaxpr: Any) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    inner = [_count(jaxpr) for jaxpr in _inner(params)]
    match name:
        case "dot_general":
            lhs = equation.invars[0].aval.shape
            (contracted, _), _ = params["dimension_numbers"]
            return math.prod(equation.outvars[0].aval.shape) * math.prod(lhs[d] for d in contracted)
        case "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
            return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
        case "scan":
            return params["length"] * sum(inner)
        case "cond":
            return max(inner)
        case _:
            return sum(inner)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The programs that an equation calls."""
    for value in params.values():
        for candidate in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(candidate, jex.ClosedJaxpr):
                yield candidate.jaxpr
            elif isinstance(candidate, jex.Jaxpr):
                yield candidate
