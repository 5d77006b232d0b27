"""The order in which examples arrive: a pure function of seed, step and host."""

import dataclasses
import functools as ft
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from nfx.data._images import BadImage, Example, Images


# Images that a thread loads at a time: enough to hide what handing them over costs, and few
# enough for all threads to work on one batch.
_CHUNK = 16

_ENDLESS = 2**62


class Batch(NamedTuple):
    """A batch, or one host's part of it: of NumPy's arrays here, of JAX's on the devices.

    Attributes:
        images: Pixels on a scale of 0 to 255, uint8 or float32, shape
            `(n, height, width, channels)`.
        labels: int32, shape `(n,)`; `PADDING_LABEL` marks rows that only fill the batch.
    """

    images: Any
    labels: Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """Who loads images. The result does not depend on it.

    Attributes:
        threads: Threads that read and decode, in each worker if there are any; None for as many
            as there are cores, 0 to load in the thread that trains.
        workers: Processes that do, for transforms that hold Python's lock. Each takes seconds to
            start and a copy of the source, and a script that uses them needs the usual
            `if __name__ == "__main__":`. 0 for none.
    """

    threads: int | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        """Checks that neither is negative."""
        if (self.threads or 0) < 0 or self.workers < 0:
            raise ValueError(f"threads={self.threads}, workers={self.workers}: at least 0.")


_THREADS = Loading()


def _ignore(bad: BadImage) -> None:
    """Takes no notice."""


def training_batches(  # noqa: PLR0913 (one for each thing that may differ)
    images: Images,
    batch_size: int,
    *,
    seed: int,
    first_step: int = 0,
    host: int = 0,
    hosts: int = 1,
    loading: Loading = _THREADS,
    on_skip: Callable[[BadImage], None] = _ignore,
    left_out: Collection[int] = (),
) -> Iterator[Batch]:
    """Yields this host's part of each global batch, for ever, from `first_step` on.

    The order is reshuffled every epoch. Host `h` of `n` gets the h-th block of every global
    batch: together the hosts' parts are what a single host would get, in the same order. The
    randomness of an image's transform follows from the seed and its place in the order.
    Resuming needs the step alone: no iterator state is kept. Two batches are loaded ahead.

    Args:
        images: The images.
        batch_size: Size of the global batch.
        seed: Of the order and of the transforms.
        first_step: The global step whose batch comes first.
        host: This host's number, `jax.process_index()`.
        hosts: Number of hosts, `jax.process_count()`.
        loading: Who loads.
        on_skip: Is told of each image that was skipped, in the order of the batches.
        left_out: Numbers of batches to leave out, in the order without them: see `kept_batch`.

    Raises:
        ValueError: If the batch is larger than the source or does not divide over the hosts;
            while iterating, if a label has no class.
        BadImageError: While iterating, if an image cannot be used and is not to be skipped.
    """
    if batch_size % hosts or not 0 < batch_size <= len(images):
        raise ValueError(
            f"batch_size={batch_size} must be a multiple of {hosts} hosts and at most the "
            f"{len(images)} images of the source."
        )
    share = _Share(batch_size, host, hosts)
    order = _training_order(len(images), seed)
    load = ft.partial(_training_chunk, images, order, seed, share, frozenset(left_out))
    return _batches(load, range(first_step * share.chunks, _ENDLESS), share, loading, on_skip)


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
    """Returns where the batch of a number stands in the order if some of that are left out.

    Args:
        number: Of the batch among those that are kept, from 0.
        left_out: Where those that are not stand.
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
    host: int = 0,
    hosts: int = 1,
    loading: Loading = _THREADS,
    on_skip: Callable[[BadImage], None] = _ignore,
) -> Iterator[Batch]:
    """Yields each image exactly once, in order; the last batch is filled up with padding.

    Args:
        images: The images.
        batch_size: Size of the global batch; must divide over the hosts.
        host: This host's number.
        hosts: Number of hosts.
        loading: Who loads.
        on_skip: Is told of each image that was skipped: it is padding then.

    Raises:
        ValueError: If the batch does not divide over the hosts, or, while iterating, a label has
            no class.
        BadImageError: While iterating, if an image cannot be used and is not to be skipped.
    """
    if batch_size % hosts or batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be a multiple of {hosts} hosts.")
    share = _Share(batch_size, host, hosts)
    steps = -(-len(images) // batch_size)
    load = ft.partial(_evaluation_chunk, images, share)
    return _batches(load, range(steps * share.chunks), share, loading, on_skip)


@dataclasses.dataclass(frozen=True)
class _Share:
    """This host's part of each global batch, dealt to threads in chunks."""

    batch_size: int
    host: int
    hosts: int

    @property
    def size(self) -> int:
        return self.batch_size // self.hosts

    @property
    def chunks(self) -> int:
        """Chunks of a batch; the last one may be smaller."""
        return -(-self.size // _CHUNK)

    def places(self, chunk: int) -> range:
        """Where in the global order the examples of a chunk stand."""
        step, part = divmod(chunk, self.chunks)
        start = step * self.batch_size + self.host * self.size
        return range(start + part * _CHUNK, start + min((part + 1) * _CHUNK, self.size))


class _Loaded(NamedTuple):
    """A part of a batch, and what was skipped for it."""

    batch: Batch
    skipped: tuple[BadImage, ...]


def _training_chunk(
    images: Images,
    order: Sequence[int],
    seed: int,
    share: _Share,
    left_out: Collection[int],
    chunk: int,
) -> _Loaded:
    step, part = divmod(chunk, share.chunks)
    chunk = kept_batch(step, left_out) * share.chunks + part

    def example(place: int) -> Example:
        key = np.asarray([seed, place], np.uint64)  # another stream for every place
        return images.draw(int(order[place]), np.random.Generator(np.random.Philox(key=key)))

    return _collate([example(place) for place in share.places(chunk)])


def _evaluation_chunk(images: Images, share: _Share, chunk: int) -> _Loaded:
    return _collate([images.judge(place) for place in share.places(chunk)])


def _collate(examples: Sequence[Example]) -> _Loaded:
    images = np.stack([example.image for example in examples])
    labels = np.asarray([example.label for example in examples], np.int32)
    return _Loaded(Batch(images, labels), tuple(bad for each in examples for bad in each.skipped))


def _join(parts: Sequence[_Loaded]) -> _Loaded:
    if len(parts) == 1:
        return parts[0]
    batch = Batch(
        *(np.concatenate(arrays) for arrays in zip(*(p.batch for p in parts), strict=True))
    )
    return _Loaded(batch, tuple(bad for part in parts for bad in part.skipped))


def _batches(
    load: Callable[[int], _Loaded],
    chunks: range,
    share: _Share,
    loading: Loading,
    on_skip: Callable[[BadImage], None],
) -> Iterator[Batch]:
    """Loads numbered chunks ahead, in order, and joins those of a batch."""
    import grain

    threads = loading.threads
    if threads is None:
        threads = -(-(os.cpu_count() or 1) // max(loading.workers, 1))
    # Two batches in all: every worker loads its part of them.
    ahead = max(-(-2 * share.chunks // max(loading.workers, 1)), 2 * threads) if threads else 0
    dataset = (
        grain.MapDataset.range(chunks.start, chunks.stop)
        .map(load)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead))
    )
    if loading.workers:
        _mark_flags_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=loading.workers)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_follow_parent)
    loaded = iter(dataset.batch(share.chunks, batch_fn=_join))
    loaded.start_prefetch()  # before the first batch is asked for

    def reported() -> Iterator[Batch]:
        for batch, skipped in loaded:
            for bad in skipped:
                on_skip(bad)
            yield batch

    return reported()


def _follow_parent(worker: int, workers: int) -> None:
    """Ends a worker process with the one that it works for, which may have been killed.

    Not with a signal to both, as of Ctrl-C or of SLURM: the run still needs batches, to end well.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()  # by a pipe to it: it may be gone already
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _mark_flags_as_parsed() -> None:
    """Lets Grain read its flags, which nobody parses in a library (google/grain#1361)."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
