"""Images in folders, one folder a class."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from nfx.data._sources import ImageError, Record, Source, Splits
from nfx.data._strings import Strings


IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

# Without a test folder, one image in this many of each class is held out.
HOLD_OUT = 10


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Image files, read when asked for.

    Attributes:
        root: The folder that names are relative to.
        names: One path an image, with slashes.
        labels: One label an image, shape `(n,)`.
        class_names: One name a class.
    """

    root: Path
    names: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        """The file at `index`.

        Raises:
            ImageError: If it cannot be read.
        """
        name = self.names[index]
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                return Record(file.read(), int(self.labels[index]), name)
        except OSError as error:
            raise ImageError(f"the file cannot be read: {error.strerror}", name) from error


def load_folder(root: str | Path) -> Splits[Source]:
    """Indexes a folder of images, without reading any.

    Args:
        root: Either `train/CLASS/*.jpg` and `test/CLASS/*.jpg` (or `val`), or
            `CLASS/*.jpg`, of which every tenth image of a class, in the order of their names,
            becomes the test set.

    Raises:
        ValueError: If there is no such folder, a split has no images, or the test set has a
            class that the training set has not.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(
            f"No folder {str(root)!r}. Expected train/CLASS/*.jpg and test/CLASS/*.jpg in it, or "
            "CLASS/*.jpg."
        )
    train, test = _two_folders(root) if (root / "train").is_dir() else _held_out(root)
    names, test_names = train.class_names, test.class_names
    unknown = sorted(set(test_names) - set(names))
    if len(names) < 2 or not len(test) or unknown:
        raise ValueError(
            f"{str(root)!r} has {len(names)} classes to train on ({', '.join(names[:5])}) and "
            f"{len(test_names)} to test with"
            + (f", of which {', '.join(unknown[:5])} only to test with" if unknown else "")
            + ". Expected at least two, in train/CLASS/*.jpg and test/CLASS/*.jpg or in "
            f"CLASS/*.jpg with {HOLD_OUT} images or more a class."
        )
    label_of = {name: label for label, name in enumerate(names)}
    labels = np.asarray([label_of[name] for name in test_names], np.int32)[test.labels]
    return Splits(train, dataclasses.replace(test, labels=labels, class_names=names))


def has_class_folders(root: Path) -> bool:
    """Whether there are folders in the folder "train": then it is one of images.

    The archives that they came in may be beside them.
    """
    train = root / "train"
    return train.is_dir() and any(path.is_dir() and _seen(path.name) for path in train.iterdir())


def list_images(paths: Sequence[str | Path]) -> list[Path]:
    """Returns the image files among `paths`: files as they are, folders with all below them.

    Raises:
        ValueError: If a path does not exist, or a folder has no images.
    """
    found: list[Path] = []
    for path in (Path(path).expanduser() for path in paths):
        if not path.exists():
            raise ValueError(f"No file or folder {str(path)!r}.")
        files = [path / name for name in _images_below(path)] if path.is_dir() else [path]
        if not files:
            raise ValueError(
                f"No images in {str(path)!r}: none of its files ends in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}."
            )
        found += files
    return found


def _two_folders(root: Path) -> Splits[FolderSource]:
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if test is None:
        raise ValueError(f"{str(root)!r} has a folder 'train' and neither 'test' nor 'val'.")
    return Splits(*(_index(root, _classes(split)) for split in (root / "train", test)))


def _held_out(root: Path) -> Splits[FolderSource]:
    def part(held: bool) -> FolderSource:
        for_test = lambda index: index % HOLD_OUT == HOLD_OUT - 1
        return _index(
            root,
            (
                (name, [file for index, file in enumerate(files) if for_test(index) == held])
                for name, files in _classes(root)
            ),
        )

    return Splits(part(held=False), part(held=True))


def _index(root: Path, classes: Iterable[tuple[Path, list[str]]]) -> FolderSource:
    """Packs one class after the other: a million paths are never in a list."""
    names, counts, class_names = Strings(), [], []
    for folder, files in classes:
        if files:
            prefix = folder.relative_to(root).as_posix()
            names.extend(f"{prefix}/{file}" for file in files)
            class_names.append(folder.name)
            counts.append(len(files))
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return FolderSource(root, names, labels, class_names)


def _classes(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders in a folder, in order, with the images below each."""
    entries = (entry for entry in folder.iterdir() if entry.is_dir() and _seen(entry.name))
    for entry in sorted(entries):
        yield entry, _images_below(entry)


def _images_below(folder: Path) -> list[str]:
    """Paths of the images below a folder, relative to it, in order; nothing that is hidden."""
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = filter(_seen, folders)
        below = os.path.relpath(where, folder)
        prefix = "" if below == "." else below.replace(os.sep, "/") + "/"
        found += [prefix + name for name in files if _is_image(name)]
    return sorted(found)


def _seen(name: str) -> bool:
    """Whether a name is not one of those that editors and systems leave, as `._cat.jpg`."""
    return not name.startswith(".")


def _is_image(name: str) -> bool:
    return _seen(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
