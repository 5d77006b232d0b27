"""What can be converted: whatever gives its labelled images in order."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from nfx.data._folder import find_test_folder, FolderSource, load_folder, SPLIT_OF_WORD
from nfx.data._listed import find_archives
from nfx.data._manifest import DatasetError, MANIFEST, SCRATCH
from nfx.data._parquet import load_parquet
from nfx.data._sources import Record, Source, Splits
from nfx.data._tar import load_tars


# Images that are looked at to tell the size of all, and whether they are the same as before.
_SAMPLES = 64


@runtime_checkable
class OrderedImages(Protocol):
    """Labelled images that are read in order."""

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes; labels index them."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """The images from `start` to before `stop`, from several threads at once."""
        ...


Convertible = OrderedImages | Source


class Outline(NamedTuple):
    """What is known of images before all are read.

    Attributes:
        bytes: Size of all, estimated.
        fingerprint: Of the names of the classes, of what is known of every image, and of some of
            the images themselves.
    """

    bytes: int
    fingerprint: str


def load_images(
    root: str | Path, *, test_split: str | None = None, class_names: Sequence[str] | None = None
) -> Splits[Convertible]:
    """Indexes what is to be converted, without reading it: a folder of images, tars or parquet.

    Args:
        root: What to look at; see `load_folder`, `load_tars` and `load_parquet`.
        test_split: "test" or "validation" (or "val"), if there are both.
        class_names: One name a class; of a folder's classes in the order of their folders.

    Raises:
        ValueError: If it is none of these, or cannot be used.
        ModuleNotFoundError: If it is parquet and pyarrow is not installed.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"No folder {str(root)!r}. Expected one of images, tars or parquet files.")
    for name in (MANIFEST, SCRATCH):
        if (root / name).exists():
            raise DatasetError(
                f"{str(root)!r} is in nfx's own format already"
                + ("." if name == MANIFEST else ", and its conversion is not finished.")
            )
    archives = find_archives(root)
    if len(archives) > 1:
        raise ValueError(f"{str(root)!r} holds tars and parquet files: convert one kind of them.")
    if not archives:
        return _load_folder(root, test_split, class_names)
    load = load_tars if ".tar" in archives else load_parquet
    return load(root, test_split=test_split, class_names=class_names)


def read_in_order(images: Convertible, start: int, stop: int) -> Iterator[Record]:
    """Yields the images from `start` to before `stop`."""
    if isinstance(images, OrderedImages):
        return images.read(start, stop)
    return (images[index] for index in range(start, stop))


def outline(images: Convertible) -> Outline:
    """Looks at images before they are converted.

    Raises:
        ImageError: If one that is looked at cannot be read.
    """
    digest = hashlib.sha256(
        repr((len(images), list(images.class_names))).encode("utf-8", "replace")
    )
    for name in getattr(images, "names", ()):
        digest.update(os.fsencode(name) + b"\0")
    digest.update(np.asarray(getattr(images, "labels", ()), np.int64).tobytes())
    count, total = min(_SAMPLES, len(images)), 0
    for index in (number * len(images) // count for number in range(count)):
        image, label, name = next(iter(read_in_order(images, index, index + 1)))
        data = image.tobytes() if isinstance(image, np.ndarray) else image
        digest.update(repr((label, name, len(data))).encode("utf-8", "replace"))
        digest.update(data)
        total += len(data)
    return Outline(total * len(images) // max(count, 1), digest.hexdigest())


def _load_folder(
    root: Path, test_split: str | None, class_names: Sequence[str] | None
) -> Splits[FolderSource]:
    splits = load_folder(root)
    if test_split is not None:
        _check_test_split(root, test_split)
    if class_names is None:
        return splits
    if len(class_names) != len(splits.train.class_names):
        raise ValueError(
            f"{len(class_names)} names for the {len(splits.train.class_names)} classes in "
            f"{str(root)!r}. Expected one for each, in the order of the folders' names."
        )
    return Splits(*(dataclasses.replace(part, class_names=class_names) for part in splits))


def _check_test_split(root: Path, test_split: str) -> None:
    taken = find_test_folder(root)
    if taken is None:
        raise ValueError(
            f"{str(root)!r} has no folder to test with: every tenth image of a class is held out. "
            "Leave the test split out."
        )
    if SPLIT_OF_WORD.get(test_split) != SPLIT_OF_WORD[taken.name]:
        raise ValueError(
            f"The images to test with are those in {str(taken)!r}, not of {test_split!r}. Rename "
            "the folders if it is to be otherwise."
        )
