"""Training a part of a model."""

from collections.abc import Sequence

import jax
import optax
from jaxtyping import PyTree

from nfx._tree import as_patterns, check_patterns, leaves_by_path, mask_by_path


def train_only(
    optimizer: optax.GradientTransformation, patterns: str | Sequence[str]
) -> optax.GradientTransformation:
    r"""Freezes every leaf but those whose path matches: it is not updated and has no state.

    Under `jax.jit`, gradients that nobody uses are not computed either.

    >>> optimizer = train_only(optax.adamw(1e-3), r"head/.*")

    An average of the parameters belongs outside, where it sees them all:
    `optax.chain(train_only(...), parameter_ema(decay))`.

    Args:
        optimizer: What updates the leaves that are trained.
        patterns: Of their paths: see `nfx._tree.path_matches`.

    Returns:
        A transformation whose `init` raises a `ValueError` if a pattern matches no leaf.
    """
    patterns = as_patterns(patterns)

    def labels(params: PyTree) -> PyTree[str]:
        check_patterns(patterns, list(leaves_by_path(params)), "leaves")
        mask = mask_by_path(params, patterns)
        return jax.tree.map(lambda trained: "trained" if trained else "frozen", mask)

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
