"""Labelled images in tar files, as WebDataset writes them."""

import dataclasses
import json
import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nfx.data._folder import IMAGE_SUFFIXES, is_hidden
from nfx.data._listed import class_names_beside, find_files, Labels, labels_of_texts, make_splits
from nfx.data._sources import ImageError, Record, Splits
from nfx.data._strings import Strings


@dataclasses.dataclass(frozen=True)
class TarSource:
    """Image files in tars, read when asked for by their offsets.

    Attributes:
        tars: The tars.
        names: Path in its tar, one an image.
        places: Number of the tar, offset and size of each image: shape `(n, 3)`.
        labels: One label an image, shape `(n,)`.
        class_names: One name a class.
    """

    tars: Sequence[Path]
    names: Sequence[str]
    places: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> Record:
        """The image at `index`; its name is that of the tar and the path in it.

        Raises:
            ImageError: If it cannot be read.
        """
        number, offset, size = self.places[index].tolist()
        name = f"{self.tars[number].name}/{self.names[index]}"
        try:
            image = _read_at(self.tars[number], offset, size)
        except OSError as error:
            raise ImageError(f"the tar cannot be read: {error.strerror}", name) from error
        if len(image) != size:
            raise ImageError("the tar ends in this file; copy the tar again", name)
        return Record(image, int(self.labels[index]), name)


def load_tars(
    root: str | Path, *, test_split: str | None = None, class_names: Sequence[str] | None = None
) -> Splits[TarSource]:
    """Indexes tar files of WebDataset, without reading their images.

    A sample is the run of files in a tar that have the same path up to the first dot of the
    last component: an image (by its suffix), and its label as a number or the name of a class
    in KEY.cls, or in KEY.json as {"label": ...}. What is hidden, or has no suffix, is no part
    of a sample.

    Args:
        root: A folder with *.tar: see `make_splits` for what their names say of splits.
        test_split: "test" or "validation", if there are both.
        class_names: One name a class; by default those in classes.txt or classnames.txt beside
            the tars, otherwise the labels.

    Raises:
        ValueError: If there is no such folder, it has no tars, one cannot be read, or a sample has
            no image or label.
    """
    root = Path(root).expanduser()
    files = find_files(root, ".tar")
    if not files:
        raise ValueError(f"No *.tar in {str(root)!r}.")
    names = class_names if class_names is not None else class_names_beside(root)
    return make_splits(root, files, _TarListing, test_split=test_split, class_names=names)


class _TarListing:
    """What some tars hold."""

    def __init__(self, tars: Sequence[Path]):
        self._tars = tars
        self._names = Strings()
        self._places = array("q")
        texts: list[str | None] = []
        for number, path in enumerate(tars):
            for name, offset, size, text in _samples(path):
                self._names.extend([name])
                self._places.extend((number, offset, size))
                texts.append(text)
        self.labels: Labels = labels_of_texts(texts)

    def describe(self, index: int) -> str:
        """The tar and the path in it."""
        return f"{self._tars[self._places[3 * index]].name}/{self._names[index]}"

    def select(
        self, indices: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
    ) -> TarSource:
        """Some of the images, with their labels."""
        names = Strings(self._names[index] for index in indices.tolist())
        places = np.frombuffer(self._places, np.int64).reshape(-1, 3)[indices]
        return TarSource(self._tars, names, places, labels, class_names)


def _samples(path: Path) -> Iterator[tuple[str, int, int, str | None]]:
    """Yields the path, offset and size of each sample's image, and the text of its label."""
    key, members = "", {}
    try:
        for name, offset, size in _members(path):
            folder, _, last = name.rpartition("/")
            stem, _, suffix = last.partition(".")
            if not suffix or any(map(is_hidden, name.split("/"))):
                continue
            if (new := f"{folder}/{stem}") != key:
                if members:
                    yield _sample(path, key, members)
                key, members = new, {}
            if suffix.lower() in members:
                raise ValueError(f"{path.name} has two files {name!r}. Expected one of each name.")
            members[suffix.lower()] = (name, offset, size)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as a tar: {error}.") from error
    if members:
        yield _sample(path, key, members)


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            tar.members = []  # or it keeps every header  # pyright: ignore[reportAttributeAccessIssue]
            if (member.islnk() or member.issym() or member.issparse()) and _counts(member.name):
                raise ValueError(
                    f"{path.name} has {member.name!r} as a link or a sparse file, and no image in "
                    "one piece. Write the tar with --dereference --hard-dereference, and without "
                    "--sparse."
                )
            if member.isfile():
                yield member.name, member.offset_data, member.size
        # `tarfile` ends without a word at a damaged header, or where a tar is cut off.
        if _read_at(path, tar.offset, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"it is damaged or cut off at byte {tar.offset}")


def _counts(name: str) -> bool:
    """Whether a member is part of a sample, by its name."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in (*IMAGE_SUFFIXES, ".cls", ".json") and not any(map(is_hidden, name.split("/")))


def _sample(
    path: Path, key: str, members: dict[str, tuple[str, int, int]]
) -> tuple[str, int, int, str | None]:
    images = [place for suffix, place in members.items() if f".{suffix}" in IMAGE_SUFFIXES]
    if len(images) != 1:
        raise ValueError(
            f"The sample {key.lstrip('/')!r} of {path.name} has {len(images)} images, in files "
            f"that end in {', '.join(members)}. Expected one, and a label in .cls or .json."
        )
    return *images[0], _label_text(path, key, members)


def _label_text(path: Path, key: str, members: dict[str, tuple[str, int, int]]) -> str | None:
    try:
        if "cls" in members:
            return _read_at(path, *members["cls"][1:]).decode().strip()
        if "json" in members:
            label = json.loads(_read_at(path, *members["json"][1:])).get("label")
            if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
                raise ValueError(f"it is {label!r}, and neither a whole number nor a text")
            return None if label is None else str(label)
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"The label of sample {key.lstrip('/')!r} of {path.name} cannot be read: {error}."
        ) from error
    return None


def _read_at(path: Path, offset: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
