"""A source's images as arrays of one shape, and what happens to images that cannot be used."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from nfx.data._class_names import label_problem
from nfx.data._sources import ArraySource, ImageError, Source
from nfx.data._transforms import AsStored, ImageTransform


# How many others are tried in place of an image that cannot be used.
_OTHERS = 10

PADDING_LABEL = -1


@dataclasses.dataclass(frozen=True, slots=True)
class BadImage:
    """An image that cannot be used.

    Attributes:
        index: Where it is in its source.
        name: What it is called, as a file's path.
        reason: Why.
    """

    index: int
    name: str
    reason: str


class BadImageError(ValueError):
    """An image that cannot be used, and that was not skipped.

    Attributes:
        bad: Which, and why.
        others: How many others that were drawn before it cannot be used either.
    """

    def __init__(self, bad: BadImage, others: int = 0):
        """Takes which, and why."""
        super().__init__(bad, others)
        self.bad, self.others = bad, others

    def __str__(self) -> str:
        """What to do about it."""
        bad = self.bad
        found = f"Image {bad.index}, {bad.name!r}, cannot be used: {bad.reason}."
        if self.others:
            return (
                f"{found} Nor can the {self.others} before it, in the place of which it was drawn: "
                "so many bad images are not skipped. `nfx inspect data` lists them all; repair or "
                "remove them."
            )
        return (
            f"{found} Repair or remove it, or leave such images out (--bad-images skip); "
            "`nfx inspect data` lists them all."
        )


class Example(NamedTuple):
    """One image as the network will get it.

    Attributes:
        image: Pixels on a scale of 0 to 255, shape `(height, width, channels)`.
        label: Index into the class names, or `PADDING_LABEL`.
        skipped: Images that were to be here and could not be used.
    """

    image: np.ndarray
    label: int
    skipped: tuple[BadImage, ...] = ()


@dataclasses.dataclass(frozen=True)
class Images:
    """A source, and what is made of its images.

    Attributes:
        source: Where they come from.
        transform: From what is stored to pixels of one shape.
        bad_images: What to do with those that cannot be used: raise a `BadImageError`, or skip
            them: in training another is drawn in their place, in evaluation they do not count.
    """

    source: Source
    transform: ImageTransform
    bad_images: Literal["raise", "skip"] = "raise"

    @classmethod
    def from_arrays(
        cls, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
    ) -> "Images":
        """Images in memory, as they are: see `ArraySource`."""
        source = ArraySource(images, labels, class_names)
        height, width, channels = images.shape[1:]
        return cls(source, AsStored((height, width, channels)))

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes; labels index them."""
        return self.source.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return self.transform.shape

    def __len__(self) -> int:
        """Number of images."""
        return len(self.source)

    def load(self, index: int, rng: np.random.Generator) -> Example:
        """Reads an image and transforms it.

        Args:
            index: Which.
            rng: Randomness of the transform.

        Raises:
            BadImageError: If it cannot be used, whatever is to be done with such images.
            ValueError: If its label has no class.
        """
        name = ""
        try:
            image, label, name = self.source[index]
            pixels = self.transform(image, rng)
        except ImageError as error:
            raise BadImageError(BadImage(index, error.name or name, str(error))) from error
        if problem := label_problem(label, len(self.class_names)):
            raise ValueError(f"Image {index}, {name!r}, has the label {label}, and {problem}")
        return Example(pixels, label)

    def draw(self, index: int, rng: np.random.Generator) -> Example:
        """Loads an image to train on, or one drawn by `rng` if it is bad and to be skipped.

        Raises:
            BadImageError: If it is bad and not to be skipped, or none of ten others is better.
            ValueError: If a label has no class.
        """
        skipped: list[BadImage] = []
        while True:
            try:
                return self.load(index, rng)._replace(skipped=tuple(skipped))
            except BadImageError as error:
                if self.bad_images == "raise":
                    raise
                if len(skipped) == _OTHERS:
                    raise BadImageError(error.bad, others=_OTHERS) from error
                skipped.append(error.bad)
                index = int(rng.integers(len(self)))

    def judge(self, index: int) -> Example:
        """Loads an image to evaluate on, or a blank that does not count, if it is to be skipped.

        Args:
            index: Which; beyond the last there are blanks.

        Raises:
            BadImageError: If it is bad and not to be skipped.
            ValueError: If its label has no class.
        """
        skipped: tuple[BadImage, ...] = ()
        if index < len(self):
            try:
                return self.load(index, np.random.default_rng(0))
            except BadImageError as error:
                if self.bad_images == "raise":
                    raise
                skipped = (error.bad,)
        blank = np.zeros(self.image_shape, self.transform.dtype)
        return Example(blank, PADDING_LABEL, skipped)
