"""Fingerprints of arrays, so that a changed bit does not go unseen."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from nfx._tree import leaves_by_path


def leaf_digests(tree: PyTree) -> dict[str, str]:
    """Returns the SHA-256 of each leaf by path: over its dtype, its shape and its bytes.

    Leaves that are split over processes are gathered one by one, so all processes must call it.
    """
    return {path: _hash(leaf).hexdigest() for path, leaf in leaves_by_path(tree).items()}


def tree_digest(tree: PyTree) -> str:
    """Returns one SHA-256 over the leaves in the order of their paths.

    Each leaf enters with its path, dtype, shape and bytes: the digests of two trees agree if
    and only if the trees are bitwise equal, on whatever devices they are. As for `leaf_digests`,
    all processes must call it.
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(leaves_by_path(tree).items()):
        digest.update(path.encode())
        digest.update(_hash(leaf).digest())
    return digest.hexdigest()


def describe_damaged_arrays(state: PyTree, saved: Mapping[str, str]) -> str:
    """Returns which arrays are not those that were saved, in words; "" if all are.

    Every byte is compared, on the way to the disk and back.

    Args:
        state: What was restored.
        saved: The digests of what was saved.
    """
    digests = leaf_digests(state)
    damaged = [path for path, digest in digests.items() if digest != saved.get(path)]
    return (
        f"{len(damaged)} arrays are not what was saved, the first {damaged[0]!r}" if damaged else ""
    )


def _hash(leaf: Any) -> Any:
    array = np.ascontiguousarray(_whole(leaf))
    digest = hashlib.sha256(f"{array.dtype.name}{np.shape(leaf)}".encode())
    digest.update(array.view(np.uint8).data if array.size else b"")
    return digest


def _whole(leaf: Any) -> Any:
    """The leaf, or where this process has only a part of it a gathered copy."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return multihost_utils.process_allgather(leaf, tiled=True)
    return leaf
