"""Where labelled images come from. NumPy only."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, runtime_checkable, TypeVar

import numpy as np

from nfx.data._class_names import class_numbers, label_problem


class ImageError(ValueError):
    """An image that cannot be used.

    Attributes:
        name: Which it is, if whoever found out knows; the message is the reason.
    """

    def __init__(self, reason: str, name: str = ""):
        """Takes the reason, and the image's name."""
        super().__init__(reason)
        self.name = name


class Record(NamedTuple):
    """One labelled image as it is stored.

    Attributes:
        image: An encoded file, or pixels: uint8, shape `(height, width, channels)`.
        label: Index into the source's `class_names`.
        name: What to call it, as a file's path.
    """

    image: bytes | np.ndarray
    label: int
    name: str


@runtime_checkable
class Source(Protocol):
    """Random access to labelled images, from several threads at once.

    Worker processes get copies by pickle.
    """

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes; labels index them."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int) -> Record:
        """The image at `index`.

        Raises:
            ImageError: If it cannot be read, with its name.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Images held in memory.

    Attributes:
        images: uint8, shape `(n, height, width, channels)`.
        labels: Integers from 0, shape `(n,)`.
        class_names: One name a class.

    Raises:
        ValueError: If shapes or dtypes are not these, or a label has no class.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]

    def __post_init__(self) -> None:
        """Checks shapes, dtype and labels."""
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(
                "Images must be uint8 of shape (n, height, width, channels); got "
                f"{self.images.dtype} of shape {self.images.shape}."
            )
        if self.labels.shape != (len(self.images),) or self.labels.dtype.kind not in "iu":
            raise ValueError(
                f"{len(self.images)} images need labels of shape ({len(self.images)},), integers; "
                f"got {self.labels.dtype} of shape {self.labels.shape}."
            )
        _check_labels(self.labels, len(self.class_names))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        """The image at `index`."""
        return Record(self.images[index], int(self.labels[index]), f"image {index}")


@dataclasses.dataclass(frozen=True)
class NoiseSource:
    """Uniform noise, made when asked for: as many images as one wants, for measuring.

    Attributes:
        count: Number of images.
        image_shape: Height, width and channels.
        num_classes: Number of classes, dealt in turn.
        seed: Of the noise.
    """

    count: int
    image_shape: tuple[int, int, int]
    num_classes: int = 1000
    seed: int = 0

    @property
    def class_names(self) -> Sequence[str]:
        """The numbers of the classes."""
        return class_numbers(self.num_classes)

    def __len__(self) -> int:
        """Number of images."""
        return self.count

    def __getitem__(self, index: int) -> Record:
        """The image at `index`, always the same.

        Raises:
            IndexError: If there is none.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} of {self.count} images")
        noise = np.random.default_rng((self.seed, index)).bytes(int(np.prod(self.image_shape)))
        image = np.frombuffer(noise, np.uint8).reshape(self.image_shape)
        return Record(image, index % self.num_classes, f"noise {index}")


def no_images(class_names: Sequence[str]) -> Source:
    """Returns a source of no images, for what follows from the classes alone."""
    return ArraySource(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int32), class_names)


Part_co = TypeVar("Part_co", covariant=True)


@dataclasses.dataclass(frozen=True)
class Splits(Generic[Part_co]):
    """What one trains on and what one is judged by: in that order, if taken apart."""

    train: Part_co
    test: Part_co

    def __iter__(self) -> Iterator[Part_co]:
        """Both."""
        return iter((self.train, self.test))

    def items(self) -> Iterator[tuple[str, Part_co]]:
        """Both, with their names."""
        return iter((("train", self.train), ("test", self.test)))


def _check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Raises a `ValueError` that names the first label outside `[0, num_classes)`."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        first = int(outside[0])
        raise ValueError(
            f"{outside.size} of {labels.size} labels are out of range: the first is "
            f"{labels[first]}, at index {first}, and {label_problem(labels[first], num_classes)}"
        )
