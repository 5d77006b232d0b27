"""Batches, and arrays that all processes have, on the devices of a mesh."""

from collections import deque
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, PyTree

from nfx.sharding._mesh import batch_spec


def place_batch(batch: PyTree[np.ndarray], mesh: Mesh) -> PyTree[Array]:
    """Makes global arrays, split over the batch axes, of what each process loaded.

    Args:
        batch: Arrays whose first axis is this process's part of the global batch.
        mesh: The mesh to place them on.
    """
    sharding = NamedSharding(mesh, batch_spec(mesh))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def place_whole(tree: PyTree, shardings: PyTree[NamedSharding]) -> PyTree[Array]:
    """Places arrays that each process has whole: of several processes all must call this.

    Args:
        tree: The arrays.
        shardings: Where they will live, one for each.
    """
    place = lambda leaf, sharding: jax.make_array_from_callback(
        leaf.shape, sharding, np.asarray(leaf).__getitem__
    )
    return jax.tree.map(place, tree, shardings)


def prefetch_batches(
    batches: Iterator[PyTree[np.ndarray]], mesh: Mesh, *, ahead: int = 1
) -> Iterator[PyTree[Array]]:
    """Places batches before they are asked for, so that copying overlaps with computing.

    Args:
        batches: See `place_batch`.
        mesh: The mesh to place them on.
        ahead: How many to hold on the devices beside the one in use. One is double buffering:
            while the step runs on a batch, the next one is copied.

    Raises:
        Exception: What `batches` raises, once the batches before it are taken: a run that ends
            before that has no need to know.
    """
    placed: deque[PyTree[Array]] = deque()
    try:
        for batch in batches:
            placed.append(place_batch(batch, mesh))
            if len(placed) > ahead:
                yield placed.popleft()
    except Exception:
        yield from placed
        raise
    yield from placed
