"""Convolutions on a CPU: the table of `nfx.nn.LOWERINGS` against XLA's grouped convolution.

    python benchmarks/convolution.py             # some minutes
    python benchmarks/convolution.py --quick     # some seconds: few shapes, few rounds

Prints a table in Markdown: for published shapes, by the row of the table that they take, GFLOP in
a second of one CPU, of the convolution and of its gradients by the input and by the kernel.
Padding counts. Beside it are those of `jax.lax.conv_general_dilated` with `feature_group_count`
and what JAX derives from it. The two run in turn; a ratio is the median of those of the rounds,
and above 1 nfx is faster. What takes XLA more than a second once is not run again: its rate is
that of the one run, and there is no ratio.
"""

import argparse
import math
import time
from statistics import median
from typing import NamedTuple

import jax
from _measure import machine

from nfx.nn import convolve, LOWERINGS
from nfx.nn._formulations import Geometry


class Shape(NamedTuple):
    """A square kernel on square images, padded as "SAME"."""

    batch: int
    side: int
    inputs: int
    outputs: int
    size: int
    stride: int = 1
    groups: int = 1

    @property
    def images(self) -> tuple[int, int, int, int]:
        """Shape of the input."""
        return self.batch, self.side, self.side, self.inputs

    @property
    def kernel(self) -> tuple[int, int, int, int]:
        """Shape of the kernel."""
        return self.size, self.size, self.inputs // self.groups, self.outputs

    @property
    def cotangent(self) -> tuple[int, int, int, int]:
        """Shape of the output, and of what the gradients are given."""
        side = -(-self.side // self.stride)
        return self.batch, side, side, self.outputs

    @property
    def gflop(self) -> float:
        """Of each of the three: a multiplication and an addition for each product."""
        return 2e-9 * math.prod(self.cotangent) * math.prod(self.kernel[:3])

    @property
    def row(self) -> str:
        """Which of the CPU's rows is taken."""
        one = self.images[1:3], self.kernel[:2], ((0, 0), (0, 0)), self.stride, self.groups
        geometry = Geometry(*one, self.kernel[2])
        return next(row.shapes for row in LOWERINGS["cpu"] if row.holds(geometry))

    def __str__(self) -> str:
        groups = f", {self.groups} groups" * (self.groups > 1)
        stride = f", stride {self.stride}" * (self.stride > 1)
        return (
            f"{self.batch} x {self.side} x {self.side}, {self.inputs} to {self.outputs}, "
            f"{self.size}x{self.size}{stride}{groups}"
        )


SHAPES = {
    "F0 stem 1": Shape(4, 192, 3, 16, 3, 2),
    "F0 stem 2": Shape(4, 96, 16, 32, 3),
    "F0 stem 4": Shape(4, 96, 64, 128, 3, 2),
    "F0 stage 1": Shape(4, 48, 128, 128, 3),
    "F0 stage 1, out": Shape(4, 48, 128, 256, 1),
    "F0 stage 2, strided": Shape(4, 48, 256, 256, 3, 2, 2),
    "F0 stage 2": Shape(4, 24, 256, 256, 3, 1, 2),
    "F0 stage 3, strided": Shape(4, 24, 768, 768, 3, 2, 6),
    "F0 stage 3": Shape(4, 12, 768, 768, 3, 1, 6),
    "F0 stage 3, in": Shape(4, 12, 1536, 768, 1),
    "F0 stage 4": Shape(4, 6, 768, 768, 3, 1, 6),
    "NF-RegNet-B0 stage 1, strided": Shape(4, 96, 32, 32, 3, 2, 4),
    "NF-RegNet-B0 stage 2, strided": Shape(4, 48, 80, 80, 3, 2, 10),
    "NF-RegNet-B0 stage 2": Shape(4, 24, 168, 168, 3, 1, 21),
    "NF-RegNet-B0 stage 3": Shape(4, 12, 344, 344, 3, 1, 43),
    "NF-RegNet-B0 stage 4": Shape(4, 6, 736, 736, 3, 1, 92),
}
QUICK = ("F0 stem 2", "F0 stage 3", "F0 stage 3, in", "NF-RegNet-B0 stage 4")

PASSES = ("convolution", "by the input", "by the kernel")

# A run of XLA's that takes longer is its last.
LONGEST = 1.0
# A round calls a function until about this much time has gone by.
SHORTEST = 0.02


def ours(x, kernel, shape):
    how = {"stride": shape.stride, "padding": "SAME", "groups": shape.groups}
    return jax.vmap(lambda image: convolve(image, kernel, **how))(x)


def theirs(x, kernel, shape):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (shape.stride, shape.stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=shape.groups,
    )


def compiled_pass(which, convolution, shape, x, kernel, y):
    """One of the passes as a function of its two operands, and those."""

    def by_the_input(y, kernel):
        return jax.linear_transpose(lambda x: convolution(x, kernel, shape), x)(y)

    def by_the_kernel(x, y):
        return jax.linear_transpose(lambda kernel: convolution(x, kernel, shape), kernel)(y)

    function, operands = {
        "convolution": (lambda x, kernel: convolution(x, kernel, shape), (x, kernel)),
        "by the input": (by_the_input, (y, kernel)),
        "by the kernel": (by_the_kernel, (x, y)),
    }[which]
    return jax.jit(function).lower(*operands).compile(), operands


def cpu_seconds(compiled, operands, calls=1):
    """Of one call, of all threads together."""
    began = time.process_time()
    for _ in range(calls):
        jax.block_until_ready(compiled(*operands))
    return (time.process_time() - began) / calls


def wall_seconds(compiled, operands):
    began = time.perf_counter()
    cpu = cpu_seconds(compiled, operands)
    return time.perf_counter() - began, cpu


def compare(which, shape, arrays, rounds):
    """GFLOP per CPU second of nfx and of XLA, and the ratio, as a cell of the table."""
    (nfx_pass, operands), (xla_pass, _) = (
        compiled_pass(which, convolution, shape, *arrays) for convolution in (ours, theirs)
    )
    cpu_seconds(nfx_pass, operands)
    once, cpu = wall_seconds(xla_pass, operands)
    if once > LONGEST:
        seconds = [cpu_seconds(nfx_pass, operands) for _ in range(rounds)]
        return f"{shape.gflop / median(seconds):.1f} / {shape.gflop / cpu:.2g} (> {LONGEST:g} s)"
    calls = [
        math.ceil(SHORTEST / max(wall_seconds(compiled, operands)[0], 1e-6))
        for compiled in (nfx_pass, xla_pass)
    ]
    pairs = [
        tuple(
            cpu_seconds(compiled, operands, count)
            for compiled, count in zip((nfx_pass, xla_pass), calls, strict=True)
        )
        for _ in range(rounds)
    ]
    rates = [shape.gflop / median(seconds) for seconds in zip(*pairs, strict=True)]
    ratio = median(slow / fast for fast, slow in pairs)
    return f"{rates[0]:.1f} / {rates[1]:.1f} ({ratio:.1f}x)"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few shapes, few rounds")
    parser.add_argument("--rounds", type=int, help="15, or 3 if quick")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (3 if arguments.quick else 15)
    jax.config.update("jax_platforms", "cpu")
    print(f"{machine('nfx', 'jax', 'jaxlib')}; float32, {rounds} rounds.\n")
    print("GFLOP per CPU second, nfx / XLA (ratio):\n")
    print("| row of the table | shape | " + " | ".join(PASSES) + " |")
    print("|---" * (2 + len(PASSES)) + "|")
    shapes = sorted(SHAPES.items(), key=lambda item: item[1].row)
    for name, shape in shapes:
        if arguments.quick and name not in QUICK:
            continue
        keys = jax.random.split(jax.random.key(0), 3)
        sizes = (shape.images, shape.kernel, shape.cotangent)
        arrays = [jax.random.normal(k, size) for k, size in zip(keys, sizes, strict=True)]
        cells = [compare(which, shape, arrays, rounds) for which in PASSES]
        print(f"| {shape.row} | {name}: {shape} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
