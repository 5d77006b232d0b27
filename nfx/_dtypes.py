"""The dtypes that there is a choice of, and those that sums are taken in."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np


Dtype = Literal["float32", "bfloat16"]


def at_least_single(dtype: Any) -> np.dtype:
    """Returns float32 for what is narrower: sums and squares of half precision lose digits."""
    return np.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else np.dtype(dtype)
