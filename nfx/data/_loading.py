"""How batches are loaded: threads and worker processes. What is in them does not depend on it."""

import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from nfx._checks import at_least
from nfx.data._images import BadImage, Example


class Batch(NamedTuple):
    """A batch, or a part of it: of NumPy's arrays here, of JAX's on the devices.

    Attributes:
        images: Pixels on a scale of 0 to 255, uint8 or float32, shape
            `(n, height, width, channels)`.
        labels: int32, shape `(n,)`; `PADDING_LABEL` marks rows that only fill the batch.
    """

    images: Any
    labels: Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How images are loaded: threads and worker processes. The result does not depend on it.

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
        at_least(0, threads=self.threads, workers=self.workers)


class Chunk(NamedTuple):
    """What a thread loads at a time.

    Attributes:
        batch: A part of a batch.
        skipped: What was skipped for it.
    """

    batch: Batch
    skipped: tuple[BadImage, ...]


def collate(examples: Sequence[Example]) -> Chunk:
    """Makes one array of images and one of labels."""
    images = np.stack([example.image for example in examples])
    labels = np.asarray([example.label for example in examples], np.int32)
    return Chunk(Batch(images, labels), tuple(bad for each in examples for bad in each.skipped))


def _join(parts: Sequence[Chunk]) -> Chunk:
    if len(parts) == 1:
        return parts[0]
    batch = Batch(
        *(np.concatenate(arrays) for arrays in zip(*(p.batch for p in parts), strict=True))
    )
    return Chunk(batch, tuple(bad for part in parts for bad in part.skipped))


def load_batches(
    load: Callable[[int], Chunk],
    chunks: range,
    per_batch: int,
    loading: Loading,
    on_skip: Callable[[BadImage], None],
) -> Iterator[Batch]:
    """Loads chunks ahead, in order, and joins those of a batch.

    Args:
        load: Loads the chunk of a number.
        chunks: Numbers of the chunks.
        per_batch: How many of them are a batch.
        loading: How they are loaded.
        on_skip: Is told of each image that was skipped, in the order of the batches.
    """
    import grain

    threads = loading.threads
    if threads is None:
        threads = -(-(os.cpu_count() or 1) // max(loading.workers, 1))
    # Two batches in all: every worker loads its part of them.
    ahead = max(-(-2 * per_batch // max(loading.workers, 1)), 2 * threads) if threads else 0
    dataset = (
        grain.MapDataset.range(chunks.start, chunks.stop)
        .map(load)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead))
    )
    if loading.workers:
        _mark_flags_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=loading.workers)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_follow_parent)
    loaded = iter(dataset.batch(per_batch, batch_fn=_join))
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
