"""Which formulation of a convolution is compiled, by platform and shape.

A convolution and its two gradients are primitives of JAX, so that the choice is made when a
program is lowered, by the platform it is lowered for, and so that nothing is lost on the way:
`grad`, `jvp`, `vmap`, `jit`, `checkpoint`, `shard_map` and `export` compose to any order, as the
derivatives of the three are the three.
"""

import functools as ft
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from nfx._dtypes import at_least_single
from nfx._varying import vary, varying_axes
from nfx.nn._formulations import (
    convolution_forward,
    convolution_input_gradient,
    convolution_kernel_gradient,
    each_group,
    Formulation,
    Geometry,
    images_kernel_gradient,
    matmul_forward,
    matmul_input_gradient,
    matmul_kernel_gradient,
    neighbors,
    windows_forward,
    windows_input_gradient,
    windows_kernel_gradient,
)


class Lowering(NamedTuple):
    """How convolutions of some shapes are computed: a row of `LOWERINGS`.

    Attributes:
        shapes: Which, in words.
        holds: Whether a convolution is one of them.
        convolution: How the convolution is computed.
        input_gradient: How its gradient by the input is.
        kernel_gradient: How its gradient by the kernel is.
    """

    shapes: str
    holds: Callable[[Geometry], bool]
    convolution: Formulation
    input_gradient: Formulation
    kernel_gradient: Formulation


# On a CPU, by the kernel: 92 to 190 GFLOP/s, against 11 to 80 of XLA's convolution.
_POINTWISE = Lowering(
    "1x1, one group",
    lambda g: g.kernel == (1, 1) and g.groups == 1,
    matmul_forward,
    matmul_input_gradient,
    matmul_kernel_gradient,
)

# By platform; the first row that holds is taken. benchmarks/convolution.py measures the rows
# of the CPU, with the figures in the comments, and benchmarks/NOTES.md says what else was tried.
# On other platforms nothing was measured: there, small groups are left to XLA, but for the
# gradient by the kernel, which XLA's partitioner multiplies by the size of an idle mesh axis if
# it is a grouped convolution.
LOWERINGS: Mapping[str, tuple[Lowering, ...]] = MappingProxyType({
    "cpu": (
        _POINTWISE,
        # 31 to 35 GFLOP/s, against 22 group by group and 11 of XLA's grouped convolution.
        Lowering(
            "an even number of groups of up to 16 channels",
            lambda g: g.channels <= 16 and g.groups % 2 == 0,
            neighbors(each_group(convolution_forward), 2),
            neighbors(each_group(convolution_input_gradient), 2),
            each_group(convolution_kernel_gradient),
        ),
        # By the kernel: 79 to 139 GFLOP/s with 128 channels, 31 to 66 with 8 and 16, against
        # 57 to 122 and 7 to 32 image by image.
        Lowering(
            "outputs of up to 14 pixels, or 28 of up to 16 channels",
            lambda g: max(g.output) <= (28 if g.channels <= 16 else 14),
            each_group(convolution_forward),
            each_group(convolution_input_gradient),
            each_group(convolution_kernel_gradient),
        ),
        # By the kernel: 77 to 131 GFLOP/s, against 32 to 62. Forward and by the input, 100 to
        # 180 in all rows of wide groups; XLA's grouped convolution 13 to 19, by the kernel 2 to 5.
        Lowering(
            "all others",
            lambda g: True,
            each_group(convolution_forward),
            each_group(convolution_input_gradient),
            each_group(images_kernel_gradient),
        ),
    ),
    "others": (
        _POINTWISE,
        Lowering(
            "groups of less than 64 channels",
            lambda g: g.channels < 64 and g.groups > 1,
            convolution_forward,
            convolution_input_gradient,
            windows_kernel_gradient,
        ),
        Lowering(
            "all others",
            lambda g: True,
            each_group(convolution_forward),
            each_group(convolution_input_gradient),
            each_group(convolution_kernel_gradient),
        ),
    ),
})  # fmt: skip


def convolution(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw i o"], geometry: Geometry
) -> Float[Array, "n h2 w2 o"]:
    """Convolves images."""
    axes = varying_axes(x) | varying_axes(kernel)
    return convolution_p.bind(vary(x, axes), vary(kernel, axes), geometry=geometry)


def _lowered(platform: str, which: str) -> Callable[..., Array]:
    def compute(a: Array, b: Array, *, geometry: Geometry) -> Array:
        row = next(row for row in LOWERINGS[platform] if row.holds(geometry))
        formulation = lambda a, b: getattr(row, which)(a, b, geometry)
        return _each_shard(formulation, a, b, sums_over_batch=which == "kernel_gradient")

    return compute


def _each_shard(
    formulation: Callable[[Array, Array], Array], a: Array, b: Array, *, sums_over_batch: bool
) -> Array:
    """Runs a formulation on each device's part of the batch, if its type says that it is split.

    That is so in JAX's Explicit mode. `b` is a batch too where the result is a sum over it, and
    otherwise a kernel.
    """
    entry = next(iter(jax.typeof(a).sharding.spec), None)
    if entry is None:
        return formulation(a, b)
    axes = (entry,) if isinstance(entry, str) else entry
    split, whole = P(axes), P()
    if sums_over_batch:
        local = lambda a, b: jax.lax.psum(formulation(a, b), axes)
        in_specs, out_specs = (split, split), whole
    else:
        local, in_specs, out_specs = formulation, (split, whole), split
    return jax.shard_map(local, in_specs=in_specs, out_specs=out_specs, axis_names=set(axes))(a, b)


def _primitive(which: str, fallback: Formulation) -> jex.Primitive:
    """A primitive that is lowered by the table.

    Args:
        which: The column of the table.
        fallback: What can be mapped over both operands.
    """
    primitive = jex.Primitive(f"nfx_{which}")
    others, cpu = (_lowered(platform, which) for platform in ("others", "cpu"))
    jitted = jax.jit(primitive.bind, static_argnames="geometry")

    def run(a: Array, b: Array, *, geometry: Geometry) -> Array:
        # By these JAX runs what is jitted op by op, and `jitted` would call itself.
        config: Any = jax.config
        if config.jax_disable_jit or config.jax_debug_nans or config.jax_debug_infs:
            compute = cpu if jax.default_backend() == "cpu" else others
            return compute(a, b, geometry=geometry)
        return jitted(a, b, geometry=geometry)

    primitive.def_impl(run)
    primitive.def_abstract_eval(ft.partial(_abstract, others))
    batching.primitive_batchers[primitive] = ft.partial(_map, primitive, fallback)
    mlir.register_lowering(primitive, mlir.lower_fun(others, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")
    return primitive


def _abstract(compute: Callable[..., Array], a: Any, b: Any, *, geometry: Geometry) -> Any:
    """Shape, dtype, sharding and all: whatever the formulation's would be."""
    return jax.make_jaxpr(ft.partial(compute, geometry=geometry))(a, b).out_avals[0]


def _map(
    primitive: jex.Primitive,
    fallback: Formulation,
    operands: tuple[Array, Array],
    axes: tuple[int | None, int | None],
    *,
    geometry: Geometry,
) -> tuple[Array, int]:
    """Images that are mapped over are more images. A kernel is one for each of them."""
    images, kernel = operands
    if primitive is kernel_gradient_p or axes[0] is None or axes[1] is not None:
        mapped = jax.vmap(lambda a, b: fallback(a, b, geometry), in_axes=axes)
        # A sum of products, which is rounded once and not at each, and so are its gradients.
        wide = at_least_single(images.dtype)
        return mapped(*(each.astype(wide) for each in operands)).astype(images.dtype), 0
    images = jnp.moveaxis(images, axes[0], 0)
    batch = images.shape[:2]
    outputs = primitive.bind(images.reshape(-1, *images.shape[2:]), kernel, geometry=geometry)
    return outputs.reshape(*batch, *outputs.shape[1:]), 0


convolution_p = _primitive("convolution", windows_forward)
input_gradient_p = _primitive("input_gradient", windows_input_gradient)
kernel_gradient_p = _primitive("kernel_gradient", windows_kernel_gradient)

CONVOLUTIONS = (convolution_p, input_gradient_p, kernel_gradient_p)

ad.defbilinear(
    convolution_p,
    lambda y, x, kernel, geometry: input_gradient_p.bind(y, kernel, geometry=geometry),
    lambda y, x, kernel, geometry: kernel_gradient_p.bind(x, y, geometry=geometry),
)
ad.defbilinear(
    input_gradient_p,
    lambda x, y, kernel, geometry: convolution_p.bind(x, kernel, geometry=geometry),
    lambda x, y, kernel, geometry: kernel_gradient_p.bind(x, y, geometry=geometry),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda kernel, x, y, geometry: input_gradient_p.bind(y, kernel, geometry=geometry),
    lambda kernel, x, y, geometry: convolution_p.bind(x, kernel, geometry=geometry),
)
