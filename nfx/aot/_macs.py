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
    in the papers. A convolution counts its padding. The body of a `scan` counts as often as it
    runs, that of a `while` once; of the branches of a `cond` the largest counts. What runs
    inside `shard_map` counts on every device.

    Args:
        function: A function of arrays.
        *args: Its arguments; they may be abstract.
    """
    return count_jaxpr_macs(jax.make_jaxpr(function)(*args))


def count_jaxpr_macs(jaxpr: Any) -> int:
    """As `count_macs`, of a function that has been traced: of `jax.jit(f).trace(*args).jaxpr`."""
    return _count(_open(jaxpr), {})


def model_macs(model: PyTree, image_size: int) -> int:
    """Counts the multiply-accumulates of `model` on one square image, in inference.

    Args:
        model: Any model of `create_model`; its leaves may be abstract.
        image_size: Side of the image, in pixels.
    """
    channels = model.in_channels
    image = jax.ShapeDtypeStruct((image_size, image_size, channels), jnp.float32)
    statistics = jax.eval_shape(initial_statistics, model)
    if statistics is None:
        return count_macs(lambda model, image: model(image), model, image)
    run = lambda model, statistics, image: apply_batch(model, statistics, image[None])
    return count_macs(run, model, statistics, image)


# Counts by the identity of a program: what repeats in a network is one program, called often.
_Known = dict[int, int]


def _count(jaxpr: Any, known: _Known) -> int:
    if id(jaxpr) not in known:
        known[id(jaxpr)] = sum(_count_equation(equation, known) for equation in jaxpr.eqns)
    return known[id(jaxpr)]


def _count_equation(equation: Any, known: _Known) -> int:
    params = equation.params
    match equation.primitive.name:
        case "dot_general":
            lhs = equation.invars[0].aval.shape
            (contracted, _), _ = params["dimension_numbers"]
            return math.prod(equation.outvars[0].aval.shape) * math.prod(lhs[d] for d in contracted)
        case "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
            return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
        case "nfx_convolution":
            return _convolution_macs(equation.outvars[0], params["geometry"])
        case "nfx_input_gradient":
            return _convolution_macs(equation.invars[0], params["geometry"])
        case "nfx_kernel_gradient":
            return _convolution_macs(equation.invars[1], params["geometry"])
        case name:
            inner = [_count(jaxpr, known) for jaxpr in _inner(params)]
            total = max(inner) if name == "cond" else sum(inner)
            return total * _repeats(name, params)


def _convolution_macs(outputs: Any, geometry: Any) -> int:
    """Of `nfx.nn.convolve`, and as many of either gradient."""
    return math.prod(outputs.aval.shape) * math.prod(geometry.kernel) * geometry.channels


def _repeats(name: str, params: dict[str, Any]) -> int:
    """How often an equation runs the programs that it calls."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        sizes = params["mesh"].shape
        return math.prod(sizes[axis] for axis in params.get("newly_manual_axes", sizes))
    return 1


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The programs that an equation calls."""
    for value in params.values():
        for candidate in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(candidate, (jex.ClosedJaxpr, jex.Jaxpr)):
                yield _open(candidate)


def _open(jaxpr: Any) -> Any:
    """A program without its constants; not all versions of JAX tell them apart."""
    return getattr(jaxpr, "jaxpr", jaxpr)
