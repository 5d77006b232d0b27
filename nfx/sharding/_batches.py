"""Batches, and arrays that all processes have, on the devices of a mesh."""

from collections import deque
from collections.abc import Callable, Collection, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, PyTree

from nfx.sharding._mesh import batch_shards, batch_spec


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


def load_parts(
    load: Callable[[int, int], Iterator[PyTree[np.ndarray]]], mesh: Mesh
) -> Iterator[PyTree[np.ndarray]]:
    """Loads what the devices of this process need of each global batch.

    That need not be one block of it: meshes follow the wires between devices, and an axis may
    go back and forth between hosts, or two hosts hold parts of a model for the same examples.

    Args:
        load: `(part, parts) -> batches`, called by position: see `nfx.data.training_batches`.
        mesh: Where the batches will live.
    """
    mine = _blocks_of_process(mesh, jax.process_index())
    parts, count = group_blocks(mine, batch_shards(mesh))
    loaded = [load(part, count) for part in parts]
    if len(loaded) == 1:
        return loaded[0]
    join = lambda *arrays: np.concatenate(arrays)
    return (jax.tree.map(join, *batches) for batches in zip(*loaded, strict=True))


def group_blocks(blocks: Collection[int], count: int) -> tuple[list[int], int]:
    """Merges numbered blocks of a whole into the largest equal parts of it.

    Args:
        blocks: Numbers of blocks, as 0, 1, 4 and 5.
        count: How many blocks the whole has, as 16.

    Returns:
        Numbers of parts, as 0 and 2, and how many parts the whole has, as 8.
    """
    widths = (width for width in range(count, 0, -1) if count % width == 0)
    for width in widths:
        parts = sorted({block // width for block in blocks})
        if len(parts) * width == len(blocks):
            return parts, count // width
    raise ValueError(f"The blocks {sorted(blocks)} must be different ones of {count}.")


def _blocks_of_process(mesh: Mesh, process: int) -> set[int]:
    """Which of the blocks that the mesh splits a batch into are on a process's devices."""
    places = NamedSharding(mesh, batch_spec(mesh)).devices_indices_map((batch_shards(mesh),))
    return {
        place[0].start or 0 for device, place in places.items() if device.process_index == process
    }
