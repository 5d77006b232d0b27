"""Images in folders, one folder a class."""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nfx.data._hold_out import every_tenth, HOLD_OUT
from nfx.data._sources import ImageError, Record, Splits
from nfx.data._strings import Strings


IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# What the words of a file's or folder's name say of its split.
SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
# What the folder of images to test with may be called, by which is taken first.
_TEST_FOLDERS = ("test", "val", "valid", "validation")


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Image files, read when asked for.

    Attributes:
        root: The folder that names are relative to.
        names: One path an image, with slashes.
        labels: One label an image, shape `(n,)`.
        class_names: One name a class.
        other_files: How many files are among them that have no image's suffix, by suffix.
    """

    root: Path
    names: Sequence[str]
    labels: np.ndarray
    class_names: Sequence[str]
    other_files: Mapping[str, int] = dataclasses.field(default_factory=dict)

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


def load_folder(root: str | Path) -> Splits[FolderSource]:
    """Indexes a folder of images, without reading any.

    Args:
        root: Either `train/CLASS/*.jpg` and `test/CLASS/*.jpg` (or `val`, `valid` or `validation`:
            the first that has folders of classes), or `CLASS/*.jpg`, of which every tenth image of
            a class, in the order of their names, becomes the test set.

    Raises:
        ValueError: If there is no such folder, one in it cannot be read, a split has no images,
            or the test set has a class that the training set has not.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(
            f"No folder {str(root)!r}. Expected train/CLASS/*.jpg and test/CLASS/*.jpg in it, or "
            "CLASS/*.jpg."
        )
    for_test = find_test_folder(root)
    if for_test is None:
        train, test = _held_out(_index(root, root))
    else:
        train, test = _index(root, root / "train"), _index(root, for_test)
    names, test_names = train.class_names, test.class_names
    unknown = sorted(set(test_names) - set(names))
    if len(names) < 2 or not len(test) or unknown:
        raise ValueError(
            f"{str(root)!r} has {len(names)} classes to train on ({', '.join(names[:5])}) and "
            f"{len(np.unique(test.labels))} to test with"
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
    return bool(_class_folders(root / "train"))


def find_test_folder(root: Path) -> Path | None:
    """Returns the folder of images to test with; None if some of every class are held out.

    Raises:
        ValueError: If there is a folder to train on, and none to test with; or if what would be
            the classes are splits by their names.
    """
    if not (root / "train").is_dir():
        names = [path.name for path in _class_folders(root)]
        if names and all(name.lower() in SPLIT_OF_WORD for name in names):
            raise ValueError(
                f"The folders in {str(root)!r} are called {', '.join(names)}, which says splits "
                "and not classes. Rename them to 'train' and 'test'."
            )
        return None
    for folder in (root / name for name in _TEST_FOLDERS):
        if _class_folders(folder):
            return folder
    raise ValueError(
        f"{str(root)!r} has a folder 'train', and none of {', '.join(map(repr, _TEST_FOLDERS))} "
        "with a folder for each class in it, to test with."
    )


def list_images(paths: Sequence[str | Path]) -> list[Path]:
    """Returns the image files among `paths`: files as they are, folders with all below them.

    Raises:
        ValueError: If a path does not exist, or a folder has no images or cannot be read.
    """
    found: list[Path] = []
    for path in (Path(path).expanduser() for path in paths):
        if not path.exists():
            raise ValueError(f"No file or folder {str(path)!r}.")
        files = [path / name for name in _files_below(path)[0]] if path.is_dir() else [path]
        if not files:
            raise ValueError(
                f"No images in {str(path)!r}: none of its files ends in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}."
            )
        found += files
    return found


def is_hidden(name: str) -> bool:
    """Whether a name is one of those that editors and systems leave, as `._cat.jpg`."""
    return name.startswith(".") and name not in (".", "..")


def refuse_loop(folder: Path) -> None:
    """Raises a `ValueError` if a folder is a link to one that it is in: images would never end."""
    if folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{str(folder)!r} is a link to a folder that it is in. Remove the link.")


def unreadable_folder(error: OSError) -> ValueError:
    """Says of a folder that cannot be read which it is, and what to do."""
    return ValueError(
        f"The folder {str(error.filename)!r} cannot be read: {error.strerror}. See to its "
        "permissions, or move it away."
    )


def _held_out(images: FolderSource) -> Splits[FolderSource]:
    held = every_tenth(images.labels)

    def part(chosen: np.ndarray) -> FolderSource:
        indices = np.flatnonzero(chosen)
        names = Strings(images.names[index] for index in indices.tolist())
        return dataclasses.replace(images, names=names, labels=images.labels[indices])

    return Splits(part(~held), dataclasses.replace(part(held), other_files={}))


def _index(root: Path, split: Path) -> FolderSource:
    """Packs one class after the other: a million paths are never in a list."""
    names, counts, class_names = Strings(), [], []
    others: collections.Counter[str] = collections.Counter()
    for folder in _class_folders(split):
        files, other_files = _files_below(folder)
        others.update(other_files)
        if files:
            prefix = folder.relative_to(root).as_posix()
            names.extend(f"{prefix}/{file}" for file in files)
            class_names.append(folder.name)
            counts.append(len(files))
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return FolderSource(root, names, labels, class_names, dict(others.most_common()))


def _class_folders(split: Path) -> list[Path]:
    """The folders in a folder, in order; nothing that is hidden."""
    try:
        return sorted(
            path for path in split.iterdir() if path.is_dir() and not is_hidden(path.name)
        )
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable_folder(error) from error


def _files_below(folder: Path) -> tuple[list[str], collections.Counter[str]]:
    """Paths of the images below a folder, relative to it, in order; of other files the suffixes.

    Nothing that is hidden is among them.
    """

    def refuse(error: OSError) -> None:
        raise unreadable_folder(error) from error

    images: list[str] = []
    others: collections.Counter[str] = collections.Counter()
    for where, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = (name for name in folders if not is_hidden(name))
        for name in folders:
            refuse_loop(Path(where, name))
        below = os.path.relpath(where, folder)
        prefix = "" if below == "." else below.replace(os.sep, "/") + "/"
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if is_hidden(name):
                continue
            if suffix in IMAGE_SUFFIXES:
                images.append(prefix + name)
            else:
                others[suffix or "no suffix"] += 1
    return sorted(images), others
