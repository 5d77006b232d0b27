"""Grouped 3x3 convolutions on this machine: one dense convolution a group against XLA's own.

`nfx.nn.convolve` writes a grouped convolution as one dense convolution a group. This measures it
against `feature_group_count`, forward and with both gradients, interleaved in one run, on shapes
of NFNet-F0 (batch 4) and of the small networks (batch 32). Ratios above 1: `convolve` is faster.

Run it with `python benchmarks/convolution.py`.
"""

import platform
import statistics
import time

import jax
import jax.numpy as jnp

from nfx.nn import convolve


# name: batch, side, channels, groups, stride
SHAPES = {
    "F0 stage 1": (4, 48, 128, 1, 1),
    "F0 stage 2": (4, 24, 256, 2, 1),
    "F0 stage 3": (4, 12, 768, 6, 1),
    "F0 stage 4": (4, 6, 768, 6, 1),
    "nano stage 1": (32, 14, 16, 1, 1),
    "nano stage 2": (32, 7, 32, 2, 1),
    "nano stage 3": (32, 4, 48, 3, 1),
}
ROUNDS = 15


def grouped(x, kernel, *, stride, groups):
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )[0]


def split(x, kernel, *, stride, groups):
    return convolve(x, kernel, stride=stride, padding="SAME", groups=groups)


def compile_both_passes(function, x, kernel, **shape):
    def loss(x, kernel):
        return jnp.sum(jnp.square(jax.vmap(lambda image: function(image, kernel, **shape))(x)))

    passes = (jax.jit(loss), jax.jit(jax.grad(loss, argnums=(0, 1))))
    return [one.lower(x, kernel).compile() for one in passes]


def seconds(compiled, x, kernel):
    began = time.perf_counter()
    jax.block_until_ready(compiled(x, kernel))
    return time.perf_counter() - began


def ratio(slow, fast, x, kernel):
    """Median over rounds of one's time over the other's, interleaved."""
    for compiled in (slow, fast):
        seconds(compiled, x, kernel)
    return statistics.median(
        seconds(slow, x, kernel) / seconds(fast, x, kernel) for _ in range(ROUNDS)
    )


def main():
    device = jax.devices()[0]
    print(f"{device.platform}, {platform.machine()}, jax {jax.__version__}, no XLA flags")
    print(f"{'shape':<14} {'forward':>8} {'forward + gradients':>20}")
    for name, (batch, side, channels, groups, stride) in SHAPES.items():
        keys = jax.random.split(jax.random.key(0))
        x = jax.random.normal(keys[0], (batch, side, side, channels))
        kernel = jax.random.normal(keys[1], (3, 3, channels // groups, channels))
        theirs, ours = (
            compile_both_passes(function, x, kernel, stride=stride, groups=groups)
            for function in (grouped, split)
        )
        ratios = [ratio(a, b, x, kernel) for a, b in zip(theirs, ours, strict=True)]
        print(f"{name:<14} {ratios[0]:>7.2f}x {ratios[1]:>19.2f}x")


if __name__ == "__main__":
    main()
