"""Ways to compute a convolution and its two gradients.

A convolution is one of three maps that are linear in each of two arguments:

- `forward(x, kernel)`, the outputs `y`;
- `input_gradient(y, kernel)`, given gradients of the outputs, those of `x`;
- `kernel_gradient(x, y)`, those of the kernel.

Each gradient of any of them is another of them, so all derivatives of all orders are among these
three. A `Formulation` computes one of them, of images `(n, h, w, channels)` and kernels `HWIO`;
which is the fastest depends on the shape and on the platform: see `nfx.nn._lowering`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier
from jaxtyping import Array, Float

from nfx._dtypes import at_least_single


Inputs = Float[Array, "n h w i"]
Outputs = Float[Array, "n h2 w2 o"]
Kernel = Float[Array, "kh kw i_per_group o"]


class Geometry(NamedTuple):
    """The shape of a convolution, apart from its batch and outputs.

    Attributes:
        image: Height and width of the input.
        kernel: Height and width of the kernel.
        padding: Pixels of zeros before and after, by dimension.
        stride: Step between output pixels, in input pixels.
        groups: Number of channel groups.
        channels: Input channels of a group.
    """

    image: tuple[int, int]
    kernel: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    stride: int
    groups: int
    channels: int

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = (
            (size + sum(padding) - kernel) // self.stride + 1
            for size, padding, kernel in zip(self.image, self.padding, self.kernel, strict=True)
        )
        return height, width


Formulation = Callable[[Array, Array, Geometry], Array]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# More groups than this are a loop.
_UNROLLED_GROUPS = 16


# One call of XLA's convolution.


def convolution_forward(x: Inputs, kernel: Kernel, geometry: Geometry) -> Outputs:
    """As XLA has it, with its groups."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (geometry.stride, geometry.stride),
        geometry.padding,
        dimension_numbers=_DIMENSIONS,
        feature_group_count=geometry.groups,
    )


def convolution_input_gradient(y: Outputs, kernel: Kernel, geometry: Geometry) -> Inputs:
    """A convolution with the kernel turned around, of an image with holes where it strided.

    It is written in the layout of a forward convolution. XLA:CPU rewrites other layouts into
    this one in the main program only, not in the bodies of loops; the barrier keeps it from
    undoing the transposition.
    """
    groups = geometry.groups
    turned = _swap_channels(kernel[::-1, ::-1], groups)
    padding = [
        (size - 1 - low, image + low - 1 - (output - 1) * geometry.stride)
        for size, (low, _), image, output in zip(
            geometry.kernel, geometry.padding, geometry.image, geometry.output, strict=True
        )
    ]
    return jax.lax.conv_general_dilated(
        y,
        optimization_barrier(turned),
        (1, 1),
        padding,
        lhs_dilation=(geometry.stride, geometry.stride),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def convolution_kernel_gradient(x: Inputs, y: Outputs, geometry: Geometry) -> Kernel:
    """A convolution whose batch are the input channels and whose kernel is `y`, for one group.

    Its features are the images: it is slow where they are few and large. The barriers are there
    for the reason given in `convolution_input_gradient`.
    """
    padding = [
        (low, (output - 1) * geometry.stride + kernel - image - low)
        for output, kernel, image, (low, _) in zip(
            geometry.output, geometry.kernel, geometry.image, geometry.padding, strict=True
        )
    ]
    gradient = jax.lax.conv_general_dilated(
        optimization_barrier(jnp.transpose(x, (3, 1, 2, 0))),
        optimization_barrier(jnp.transpose(y, (1, 2, 0, 3))),
        (1, 1),
        padding,
        rhs_dilation=(geometry.stride, geometry.stride),
        dimension_numbers=_DIMENSIONS,
    )
    return jnp.transpose(gradient, (1, 2, 0, 3))


def images_kernel_gradient(x: Inputs, y: Outputs, geometry: Geometry) -> Kernel:
    """A convolution for each image, in a loop of four at a turn, for one group: `y` is its kernel.

    Its batch are the input channels. Where the convolution strides, the pixels of the kernel
    meet different pixels of the image, so that there are up to `stride**2` of them.
    """
    dtype = at_least_single(x.dtype)
    starts = [
        (i, j)
        for i in range(min(geometry.stride, geometry.kernel[0]))
        for j in range(min(geometry.stride, geometry.kernel[1]))
    ]
    met = [_met_pixels(x, start, geometry) for start in starts]
    height, width = geometry.output
    zeros = [
        jnp.zeros_like(
            y, dtype, (m.shape[1], m.shape[2] - height + 1, m.shape[3] - width + 1, y.shape[-1])
        )
        for m in met
    ]

    def add(totals: list[Array], image: tuple[list[Array], Array]) -> tuple[list[Array], None]:
        pixels, outputs = image
        return [
            total + _valid_convolution(x, outputs[:, :, None], dtype)
            for total, x in zip(totals, pixels, strict=True)
        ], None

    unroll = 4 if isinstance(y.shape[0], int) else 1  # a symbolic batch has no quarters
    totals, _ = jax.lax.scan(add, zeros, (optimization_barrier(met), y), unroll=unroll)
    gradient = sum(
        _spread(total, start, geometry.kernel, geometry.stride)
        for total, start in zip(totals, starts, strict=True)
    )
    return jnp.transpose(jnp.asarray(gradient), (1, 2, 0, 3)).astype(x.dtype)


# Matrix products.


def matmul_forward(x: Inputs, kernel: Kernel, geometry: Geometry) -> Outputs:
    """One matrix product, for a kernel of one pixel and one group."""
    return _flat_matmul(x[:, :: geometry.stride, :: geometry.stride], kernel[0, 0])


def matmul_input_gradient(y: Outputs, kernel: Kernel, geometry: Geometry) -> Inputs:
    """One matrix product, for a kernel of one pixel and one group."""
    return _spread_window(_flat_matmul(y, kernel[0, 0].T), (0, 0), geometry)


def matmul_kernel_gradient(x: Inputs, y: Outputs, geometry: Geometry) -> Kernel:
    """One matrix product, for a kernel of one pixel and one group."""
    x = x[:, :: geometry.stride, :: geometry.stride]
    return (_flat(x).T @ _flat(y))[None, None]


def windows_forward(x: Inputs, kernel: Kernel, geometry: Geometry) -> Outputs:
    """A sum of matrix products, one for each pixel of the kernel and each group."""
    kernel = _split(kernel, geometry.groups)
    pixels = kernel.reshape(-1, *kernel.shape[2:])
    total = sum(
        jnp.einsum("nhwgi,igo->nhwgo", _split(window, geometry.groups), pixel)
        for window, pixel in zip(_windows(x, geometry), pixels, strict=True)
    )
    return _merge(jnp.asarray(total))


def windows_input_gradient(y: Outputs, kernel: Kernel, geometry: Geometry) -> Inputs:
    """As `windows_forward`."""
    y, kernel = _split(y, geometry.groups), _split(kernel, geometry.groups)
    total = sum(
        _spread_window(_merge(jnp.einsum("nhwgo,igo->nhwgi", y, kernel[offset])), offset, geometry)
        for offset in _offsets(geometry)
    )
    return jnp.asarray(total)


def windows_kernel_gradient(x: Inputs, y: Outputs, geometry: Geometry) -> Kernel:
    """As `windows_forward`."""
    y = _split(y, geometry.groups)
    products = [
        _merge(jnp.einsum("nhwgi,nhwgo->igo", _split(window, geometry.groups), y))
        for window in _windows(x, geometry)
    ]
    return jnp.stack(products).reshape(*geometry.kernel, *products[0].shape)


# Grouped convolutions by other convolutions.


def each_group(formulation: Formulation) -> Formulation:
    """One convolution for each group, all of them dense.

    Many groups are a loop: it costs up to a quarter more time, and the size of the program and
    the seconds to compile it do not grow with their number.
    """

    def compute(a: Array, b: Array, geometry: Geometry) -> Array:
        groups, one = geometry.groups, geometry._replace(groups=1)
        if groups == 1:
            return formulation(a, b, one)
        if groups <= _UNROLLED_GROUPS:
            parts = zip(jnp.split(a, groups, axis=-1), jnp.split(b, groups, axis=-1), strict=True)
            return jnp.concatenate([formulation(x, y, one) for x, y in parts], axis=-1)
        parts = tuple(jnp.moveaxis(_split(x, groups), -2, 0) for x in (a, b))
        mapped = jax.lax.map(lambda part: formulation(part[0], part[1], one), parts)
        return _merge(jnp.moveaxis(mapped, 0, -2))

    return compute


def neighbors(formulation: Formulation, count: int) -> Formulation:
    """Neighboring groups as one, `count` at a time, by a kernel with zeros between them.

    For forward and input gradient. `count` must divide the groups.
    """

    def compute(images: Array, kernel: Array, geometry: Geometry) -> Array:
        merged = optimization_barrier(_block_diagonal(kernel, geometry.groups, count))
        return formulation(images, merged, geometry._replace(groups=geometry.groups // count))

    return compute


def _block_diagonal(kernel: Kernel, groups: int, count: int) -> Array:
    height, width, inputs, outputs = kernel.shape
    blocks = kernel.reshape(height, width, inputs, groups // count, count, outputs // groups)
    same = jnp.eye(count, dtype=kernel.dtype)
    spread = same[:, None, None, :, None] * blocks[:, :, None]
    return spread.reshape(height, width, count * inputs, outputs)


def _swap_channels(kernel: Kernel, groups: int) -> Array:
    """Inputs and outputs of each group exchanged."""
    return _merge(jnp.swapaxes(_split(kernel, groups), 2, 4))


def _split(x: Array, groups: int) -> Array:
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _merge(x: Array) -> Array:
    return x.reshape(*x.shape[:-2], math.prod(x.shape[-2:]))


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _flat_matmul(x: Float[Array, "n h w i"], matrix: Float[Array, "i o"]) -> Array:
    """One product for the whole batch: a batched one is slower to transpose and to add up."""
    return (_flat(x) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _pad(x: Inputs, geometry: Geometry) -> Array:
    return jnp.pad(x, ((0, 0), *geometry.padding, (0, 0)))


def _offsets(geometry: Geometry) -> list[tuple[int, int]]:
    return [(i, j) for i in range(geometry.kernel[0]) for j in range(geometry.kernel[1])]


def _windows(x: Inputs, geometry: Geometry) -> Iterator[Array]:
    """What each pixel of the kernel is multiplied by."""
    stride = geometry.stride
    height, width = ((size - 1) * stride + 1 for size in geometry.output)
    padded = _pad(x, geometry)
    for i, j in _offsets(geometry):
        yield padded[:, i : i + height : stride, j : j + width : stride]


def _spread_window(window: Array, offset: tuple[int, int], geometry: Geometry) -> Array:
    """The transpose of taking the window at an offset: an image of zeros but there."""
    starts = [start - low for start, (low, _) in zip(offset, geometry.padding, strict=True)]
    return _spread(window, starts, geometry.image, geometry.stride)


def _spread(x: Array, starts: Sequence[int], sizes: Sequence[int], stride: int) -> Array:
    """Puts the pixels of axes 1 and 2 at every `stride`-th place of larger ones, from a start."""
    edges = [
        (start, size - start - (count - 1) * stride - 1, stride - 1)
        for start, size, count in zip(starts, sizes, x.shape[1:3], strict=True)
    ]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _met_pixels(
    x: Inputs, start: tuple[int, int], geometry: Geometry
) -> Float[Array, "n i h2 w2 1"]:
    """The pixels that every `stride`-th pixel of the kernel meets, from a first one on."""
    stride = geometry.stride
    height, width = (
        output + len(range(first, size, stride)) - 1
        for output, first, size in zip(geometry.output, start, geometry.kernel, strict=True)
    )
    met = _pad(x, geometry)[:, start[0] :: stride, start[1] :: stride][:, :height, :width]
    return jnp.transpose(met, (0, 3, 1, 2))[..., None]


def _valid_convolution(x: Array, kernel: Array, dtype: jnp.dtype) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=_DIMENSIONS, preferred_element_type=dtype
    )
