"""A recipe's images as batches on the devices of a mesh."""

import dataclasses
import functools as ft
from collections.abc import Callable, Collection, Iterator

from jax.sharding import Mesh

from nfx.data import (
    BadImage,
    Batch,
    evaluation_batches,
    Images,
    Loading,
    Splits,
    training_batches,
)
from nfx.sharding import batch_shards, load_parts, prefetch_batches


# Images that a device evaluates at a time. The result does not depend on it.
_IMAGES_PER_DEVICE = 128


# Is told of an image that was skipped: the split, its size, and which.
OnSkip = Callable[[str, int, BadImage], None]


def ignore_skipped(split: str, count: int, bad: BadImage) -> None:
    """Takes no notice of an image that was skipped."""


@dataclasses.dataclass(frozen=True)
class Feed:
    """Loads batches ahead, and places them on the devices.

    Attributes:
        images: What to train on and what to be judged by.
        mesh: The devices.
        on_skip: Is told of images that were skipped.
        loading: Who loads.
    """

    images: Splits[Images]
    mesh: Mesh
    on_skip: OnSkip = ignore_skipped
    loading: Loading = Loading()

    @property
    def evaluation_batch_size(self) -> int:
        """Size of the batches to evaluate on."""
        return _IMAGES_PER_DEVICE * batch_shards(self.mesh)

    def training(
        self, batch_size: int, *, seed: int, first_step: int, left_out: Collection[int] = ()
    ) -> Iterator[Batch]:
        """Yields the batches from a step on, for ever: see `nfx.data.training_batches`."""
        batches = ft.partial(training_batches, seed=seed, first_step=first_step, left_out=left_out)
        return self._placed(batches, "train", self.images.train, batch_size)

    def evaluation(self) -> Iterator[Batch]:
        """Yields each test image once: see `nfx.data.evaluation_batches`."""
        return self._placed(
            evaluation_batches, "test", self.images.test, self.evaluation_batch_size
        )

    def _placed(
        self, batches: Callable[..., Iterator[Batch]], split: str, images: Images, size: int
    ) -> Iterator[Batch]:
        """Loads what this process needs of the batches, and places it."""
        on_skip = ft.partial(self.on_skip, split, len(images))

        def load(part: int, parts: int) -> Iterator[Batch]:
            return batches(
                images, size, part=part, parts=parts, loading=self.loading, on_skip=on_skip
            )

        return prefetch_batches(load_parts(load, self.mesh), self.mesh)
