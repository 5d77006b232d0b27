"""Hypothesis strategies for arrays whose units differ in scale by orders of magnitude."""

import hypothesis.strategies as st
import numpy as np


def arrays(shape):
    """Arrays of a shape; drawn from a seed, which is much faster than entry by entry."""

    def build(seed, exponents, shift):
        rng = np.random.default_rng(seed)
        scales = 10.0 ** rng.uniform(*sorted(exponents), size=shape[-1:])
        return ((rng.normal(size=shape) + shift) * scales).astype(np.float32)

    exponent = st.integers(-6, 2)
    return st.builds(
        build, st.integers(0, 2**32 - 1), st.tuples(exponent, exponent), st.sampled_from([0, 0, 10])
    )
