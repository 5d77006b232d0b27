"""The order in which examples arrive: a pure function of seed, step and part."""

import dataclasses
import functools as ft
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from nfx.data._images import BadImage, Example, Images
from nfx.data._loading import Batch, Chunk, collate, load_batches, Loading


# Images that a thread loads at a time: enough to hide what handing them over costs, and few
# enough for all threads to work on one batch.
_CHUNK = 16

_ENDLESS = 2**62


def _ignore(bad: BadImage) -> None:
    """Takes no notice."""


def training_batches(  # noqa: PLR0913 (one for each thing that may differ)
    images: Images,
    batch_size: int,
    *,
    seed: int,
    first_step: int = 0,
    part: int = 0,
    parts: int = 1,
    loading: Loading = Loading(),
    on_skip: Callable[[BadImage], None] = _ignore,
    left_out: Collection[int] = (),
) -> Iterator[Batch]:
    """Yields a part of each global batch, for ever, from `first_step` on.

    The order is reshuffled every epoch. The parts are blocks of equal size: together they are
    what a single process would load, in the same order. Which of them a process needs follows
    from the mesh: see `nfx.sharding.load_parts`. The randomness of an image's transform follows
    from the seed and its place in the order. Resuming needs the step alone: no iterator state is
    kept. Two batches are loaded ahead.

    Args:
        images: The images.
        batch_size: Size of the global batch.
        seed: Of the order and of the transforms.
        first_step: The global step whose batch comes first.
        part: Which part, from 0.
        parts: How many parts a batch has.
        loading: How they are loaded.
        on_skip: Is told of each image that was skipped, in the order of the batches.
        left_out: Numbers of batches to leave out, in the order without them: see `kept_batch`.

    Raises:
        ValueError: If the batch is larger than the source or does not divide into the parts, or
            there is no such part; while iterating, if a label has no class.
        BadImageError: While iterating, if an image cannot be used and is not to be skipped.
    """
    if batch_size % parts or not 0 < batch_size <= len(images):
        raise ValueError(
            f"batch_size={batch_size} must be a multiple of parts={parts} and at most the "
            f"{len(images)} images of the source."
        )
    share = _Share(batch_size, part, parts)
    order = _training_order(len(images), seed)
    load = ft.partial(_training_chunk, images, order, seed, share, frozenset(left_out))
    return load_batches(
        load, range(first_step * share.chunks, _ENDLESS), share.chunks, loading, on_skip
    )


def training_indices(
    images: int, batch_size: int, *, seed: int, batch: int, left_out: Collection[int] = ()
) -> list[int]:
    """Returns which images `training_batches` has in a global batch, without loading any.

    Where an image cannot be used and is skipped, another is drawn in its place.

    Args:
        images: How many images there are.
        batch_size: Size of the global batch.
        seed: Of the order.
        batch: Which batch, from 0: that of the step from this one to the next.
        left_out: As for `training_batches`.
    """
    order = _training_order(images, seed)
    start = kept_batch(batch, left_out) * batch_size
    return [int(order[place]) for place in range(start, start + batch_size)]


def kept_batch(number: int, left_out: Collection[int]) -> int:
    """Returns the place in the full order of the n-th batch that is kept.

    Args:
        number: n, from 0.
        left_out: Places of the batches that are left out.
    """
    for other in sorted(set(left_out)):
        number += other <= number
    return number


def _training_order(images: int, seed: int) -> Sequence[int]:
    import grain  # an extra, and slow to import

    order: Any = grain.MapDataset.range(images).seed(seed).shuffle().repeat(None)
    return order


def evaluation_batches(
    images: Images,
    batch_size: int,
    *,
    part: int = 0,
    parts: int = 1,
    loading: Loading = Loading(),
    on_skip: Callable[[BadImage], None] = _ignore,
) -> Iterator[Batch]:
    """Yields each image exactly once, in order; the last batch is filled up with padding.

    Args:
        images: The images.
        batch_size: Size of the global batch; must divide into the parts.
        part: Which part of each batch, from 0.
        parts: How many parts a batch has.
        loading: How they are loaded.
        on_skip: Is told of each image that was skipped: it is padding then.

    Raises:
        ValueError: If the batch does not divide into the parts, or there is no such part; while
            iterating, if a label has no class.
        BadImageError: While iterating, if an image cannot be used and is not to be skipped.
    """
    if batch_size % parts or batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be a multiple of parts={parts}.")
    share = _Share(batch_size, part, parts)
    steps = -(-len(images) // batch_size)
    load = ft.partial(_evaluation_chunk, images, share)
    return load_batches(load, range(steps * share.chunks), share.chunks, loading, on_skip)


@dataclasses.dataclass(frozen=True)
class _Share:
    """A part of each global batch, dealt to threads in chunks."""

    batch_size: int
    part: int
    parts: int

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise ValueError(
                f"part={self.part} must be from 0 to {self.parts - 1}: parts={self.parts}."
            )

    @property
    def size(self) -> int:
        return self.batch_size // self.parts

    @property
    def chunks(self) -> int:
        """Chunks of a batch; the last one may be smaller."""
        return -(-self.size // _CHUNK)

    def places(self, chunk: int) -> range:
        """Where in the global order the examples of a chunk stand."""
        step, number = divmod(chunk, self.chunks)
        start = step * self.batch_size + self.part * self.size
        return range(start + number * _CHUNK, start + min((number + 1) * _CHUNK, self.size))


def _training_chunk(
    images: Images,
    order: Sequence[int],
    seed: int,
    share: _Share,
    left_out: Collection[int],
    chunk: int,
) -> Chunk:
    step, number = divmod(chunk, share.chunks)
    chunk = kept_batch(step, left_out) * share.chunks + number

    def example(place: int) -> Example:
        key = np.asarray([seed, place], np.uint64)  # another stream for every place
        return images.draw(int(order[place]), np.random.Generator(np.random.Philox(key=key)))

    return collate([example(place) for place in share.places(chunk)])


def _evaluation_chunk(images: Images, share: _Share, chunk: int) -> Chunk:
    return collate([images.judge(place) for place in share.places(chunk)])
