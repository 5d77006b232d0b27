"""The order in which examples arrive: a pure function of seed, step and host."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from nfx.data._sources import check_labels, Example, Source


PADDING_LABEL = -1


class Batch(NamedTuple):
    """A batch, or one host's part of it: of NumPy's arrays here, of JAX's on the devices.

    Attributes:
        images: uint8, shape `(n, height, width, channels)`.
        labels: int32, shape `(n,)`; `PADDING_LABEL` marks rows that only fill the batch.
    """

    images: Any
    labels: Any


def training_batches(
    source: Source,
    batch_size: int,
    *,
    seed: int,
    first_step: int = 0,
    host: int = 0,
    hosts: int = 1,
    threads: int | None = None,
) -> Iterator[Batch]:
    """Yields this host's part of each global batch, for ever, from `first_step` on.

    The order is reshuffled every epoch. Host `h` of `n` gets the h-th block of every global
    batch: together the hosts' parts are what a single host would get, in the same order.
    Resuming needs the step alone: it slices the order, and no iterator state is kept.

    Args:
        source: The images.
        batch_size: Size of the global batch.
        seed: Of the order.
        first_step: The global step whose batch comes first.
        host: This host's number, `jax.process_index()`.
        hosts: Number of hosts, `jax.process_count()`.
        threads: Threads that read and decode; all cores by default.

    Raises:
        ValueError: If the batch is larger than the source or does not divide over the hosts;
            while iterating, if a label has no class.
    """
    import grain  # an extra, and slow to import

    if batch_size % hosts or not 0 < batch_size <= len(source):
        raise ValueError(
            f"batch_size={batch_size} must be a multiple of {hosts} hosts and at most the "
            f"{len(source)} images of the source."
        )
    threads = os.cpu_count() or 1 if threads is None else threads
    num_classes = len(source.class_names)

    def collate(examples: Sequence[Example]) -> Batch:
        return _collate(examples, num_classes)

    # Batches of one host's size are dealt to the hosts in turn. Batching comes before the
    # slices, so that a step is one element; indexing is lazy, so that skipping costs nothing.
    order = grain.MapDataset.source(source).seed(seed).shuffle().repeat(None)
    batches = order.batch(batch_size // hosts, drop_remainder=True, batch_fn=collate)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(batches[host::hosts][first_step:].to_iter_dataset(options))


def evaluation_batches(
    source: Source, batch_size: int, *, host: int = 0, hosts: int = 1
) -> Iterator[Batch]:
    """Yields each image exactly once, in order; the last batch is filled up with padding.

    Args:
        source: The images.
        batch_size: Size of the global batch; must divide over the hosts.
        host: This host's number.
        hosts: Number of hosts.

    Raises:
        ValueError: If the batch does not divide over the hosts, or a label has no class.
    """
    if batch_size % hosts or batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be a multiple of {hosts} hosts.")
    size = batch_size // hosts
    blank = np.zeros(source.image_shape, np.uint8)
    for start in range(host * size, len(source) + host * size, batch_size):
        examples = [source[index] for index in range(start, min(start + size, len(source)))]
        real = _collate(examples, len(source.class_names)) if examples else _NOTHING
        padding = size - len(examples)
        yield Batch(
            np.stack([*real.images, *[blank] * padding]),
            np.concatenate([real.labels, np.full(padding, PADDING_LABEL, np.int32)]),
        )


_NOTHING = Batch(np.zeros(0, np.uint8), np.zeros(0, np.int32))


def _collate(examples: Sequence[Example], num_classes: int) -> Batch:
    images = np.stack([example.image for example in examples])
    labels = np.asarray([example.label for example in examples], np.int32)
    check_labels(labels, num_classes)
    return Batch(images, labels)
