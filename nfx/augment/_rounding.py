"""Arithmetic that no compiler changes, so that an image is the same on any mesh."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def rounded(product: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns a product of small numbers as it is, rounded.

    A compiler may join it with the sum that follows, which skips a rounding: in one program and
    not in another, and with the one or the other product of two. A last place of a float32 is
    then a byte in what is rounded down. The bound is never met and stands between the two; it is
    an upper one, as a compiler that knows that a product is positive would drop a lower one.
    """
    return jnp.minimum(product, 1e9)


def to_bytes(x: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """Clips to 0 and 255, and rounds down."""
    return jnp.clip(x, 0, 255).astype(jnp.uint8)
