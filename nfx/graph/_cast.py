"""Other dtypes for parameters, by path."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
from jaxtyping import PyTree

from nfx._tree import as_patterns, check_patterns, leaves_by_path, map_with_path, path_matches


Model = TypeVar("Model", bound=PyTree)


def cast(model: Model, dtype: Any, patterns: str | Sequence[str] = ".*") -> Model:
    r"""Returns `model` with the parameters whose paths match in another dtype.

    >>> half = cast(model, jnp.bfloat16, r"stages/\d+/.*/weight")

    Layers compute in the dtype of the image, and standardize kernels in that of the kernel:
    what is cast here is what is stored.

    Args:
        model: Any pytree. Leaves that are not floating-point stay as they are.
        dtype: A floating-point dtype.
        patterns: Of paths of leaves: see `nfx._tree.path_matches`.

    Raises:
        ValueError: If `dtype` is not floating-point, or a pattern matches nothing.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype={jnp.dtype(dtype).name} must be floating-point.")
    patterns = as_patterns(patterns)
    floats = {path for path, leaf in leaves_by_path(model).items() if _is_floating(leaf)}
    check_patterns(patterns, list(floats), "leaves")

    def change(path: str, leaf: Any) -> Any:
        return leaf.astype(dtype) if path in floats and path_matches(path, patterns) else leaf

    return map_with_path(change, model)


def _is_floating(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
