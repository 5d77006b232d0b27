"""Which of some files are for training, and what their labels mean: for tars and parquet."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from nfx.data._class_names import class_numbers, label_problem, read_class_names
from nfx.data._folder import (
    has_class_folders,
    is_hidden,
    refuse_loop,
    SPLIT_OF_WORD,
    unreadable_folder,
)
from nfx.data._hold_out import every_tenth, HOLD_OUT
from nfx.data._sources import Splits


_CLASS_NAME_FILES = ("classes.txt", "classnames.txt")

NO_LABEL = -1

Part_co = TypeVar("Part_co", covariant=True)
Part = TypeVar("Part")


# A class is named by its number where nobody names it: of more classes that none of the labels
# has than this, or ten times as many, the labels are something else.
_UNSEEN = 1000


class Labels(NamedTuple):
    """Labels as they were found.

    Attributes:
        numbers: One an image, `NO_LABEL` where there is none.
        names: The texts that the numbers stand for; nothing where the labels were numbers.
    """

    numbers: np.ndarray
    names: Sequence[str] | None = None


class Listing(Protocol[Part_co]):
    """What some files hold, without their images."""

    @property
    def labels(self) -> Labels:
        """Labels of all images."""
        ...

    def describe(self, index: int) -> str:
        """Which image that is."""
        ...

    def select(
        self, indices: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
    ) -> Part_co:
        """Some of the images, with their labels."""
        ...


def find_files(root: Path, suffix: str) -> list[Path]:
    """Returns files by suffix in a folder, and in folders in it that are called like a split.

    What is hidden is none of them.

    Raises:
        ValueError: If there is no such folder, or it cannot be read.
    """
    if not root.is_dir():
        raise ValueError(f"No folder {str(root)!r}. Expected one with *{suffix} files.")
    found = []
    try:
        paths = sorted(root.iterdir())
    except OSError as error:
        raise unreadable_folder(error) from error
    for path in paths:
        if is_hidden(path.name):
            continue
        if path.is_dir():
            if path.name in ("data", "default") or _split_of_name(path.name):
                refuse_loop(path)
                found += find_files(path, suffix)
        elif path.suffix.lower() == suffix:
            found.append(path)
    return found


def find_archives(root: Path) -> dict[str, list[Path]]:
    """Returns tars and parquet files by suffix; none if they lie beside the images they held."""
    if has_class_folders(root):
        return {}
    found = {suffix: find_files(root, suffix) for suffix in (".tar", ".parquet")}
    return {suffix: files for suffix, files in found.items() if files}


def class_names_beside(root: Path) -> list[str] | None:
    """Returns the names of the classes in the file beside the images, if there is one."""
    files = (root / name for name in _CLASS_NAME_FILES)
    return read_class_names(next(filter(Path.is_file, files), None))


def make_splits(
    root: Path,
    files: Sequence[Path],
    list_files: Callable[[Sequence[Path]], Listing[Part]],
    *,
    test_split: str | None,
    class_names: Sequence[str] | None,
) -> Splits[Part]:
    """Chooses what to train on and what to test with, and gives both the same classes.

    Args:
        root: What the files' names are relative to.
        files: The files. Their names, or their folders', say "train", "test" or "val"; if none
            does, or only training files are there, every tenth image of a class is held out.
        list_files: What lists the images of some files.
        test_split: "test" or "validation"; by default "test" if all its images have labels.
        class_names: One name a class. By default the labels themselves.

    Raises:
        ValueError: If there is no such split, an image to use has no label, or a label no class.
    """
    groups = _group_by_split(root, files)
    train = list_files(groups.pop("train"))
    others = {name: list_files(group) for name, group in groups.items()}
    chosen = _choose_test(root, others, test_split)
    test = train if chosen is None else chosen
    for listing in (train, test):
        _check_labelled(listing)
    found = _understood([train.labels, test.labels], class_names)
    names = _name_classes(root, found[0], class_names)
    train_labels, test_labels = (
        _number(listing, labels, names)
        for listing, labels in zip((train, test), found, strict=True)
    )
    if chosen is not None:
        indices = [np.arange(len(labels)) for labels in (train_labels, test_labels)]
    else:
        held_out = every_tenth(train_labels)
        indices = [np.flatnonzero(~held_out), np.flatnonzero(held_out)]
    if not all(map(len, indices)):
        raise ValueError(
            f"{str(root)!r} has {len(indices[0])} images to train on and {len(indices[1])} to test "
            f"with. Expected some of each, or {HOLD_OUT} of a class of which to hold out one."
        )
    return Splits(
        train.select(indices[0], train_labels[indices[0]], names),
        test.select(indices[1], test_labels[indices[1]], names),
    )


def labels_of_texts(texts: Iterable[str | None]) -> Labels:
    """Reads labels from texts; an empty one and "-1" are none."""
    numbers: list[int] = []
    number_of: dict[str, int] = {}
    for text in texts:
        if not text or text == str(NO_LABEL):
            numbers.append(NO_LABEL)
        else:
            numbers.append(number_of.setdefault(text, len(number_of)))
    return Labels(np.asarray(numbers, np.int32), list(number_of))


def _understood(found: Sequence[Labels], given: Sequence[str] | None) -> list[Labels]:
    """Takes texts for numbers, in all splits or in none: if all are, and not names of classes."""
    texts = {text for labels in found for text in labels.names or ()}
    are_numbers = all(re.fullmatch("-?[0-9]{1,9}", text) for text in texts)  # int() takes "2_0" too
    if not are_numbers or (given is not None and texts <= set(given)):
        return list(found)
    return [
        Labels(np.asarray([*map(int, labels.names), NO_LABEL], np.int32)[labels.numbers])
        if labels.names is not None
        else labels
        for labels in found
    ]


def _group_by_split(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(_split_of_path(path.relative_to(root)), []).append(path)
    if list(groups) == [""]:
        return {"train": groups[""]}
    if "" in groups or "train" not in groups:
        unknown = ", ".join(path.name for path in groups.get("", [])[:3])
        raise ValueError(
            f"In {str(root)!r} are files of {', '.join(filter(None, sorted(groups)))}"
            + (f", and {unknown} that say no split" if unknown else " and none to train on")
            + ". Expected train-*, and test-* or validation-*, or no file that says its split."
        )
    return groups


def _split_of_path(path: Path) -> str:
    parts = (path.name, *reversed(path.parent.parts))
    return next(filter(None, map(_split_of_name, parts)), "")


def _split_of_name(name: str) -> str:
    words = re.split(r"[-_.\s]", name.lower())
    return next((SPLIT_OF_WORD[word] for word in words if word in SPLIT_OF_WORD), "")


def _choose_test(
    root: Path, listings: Mapping[str, Listing[Part]], test_split: str | None
) -> Listing[Part] | None:
    """The listing to test with; nothing if some of the training images are to be held out."""
    if test_split is not None:
        name = SPLIT_OF_WORD.get(test_split, test_split)
        if name not in listings:
            raise ValueError(
                f"No split {test_split!r} to test with in {str(root)!r}; it has "
                f"{', '.join(sorted(listings)) or 'only one to train on'}."
            )
        return listings[name]
    labelled = (
        listings[name]
        for name in ("test", "validation")
        if name in listings and (listings[name].labels.numbers >= 0).all()
    )
    # A validation split that has lost some labels is an error, and no reason to hold out.
    return next(labelled, listings.get("validation"))


def _check_labelled(listing: Listing[Part]) -> None:
    missing = np.flatnonzero(listing.labels.numbers < 0)
    if missing.size:
        raise ValueError(
            f"{missing.size} of {listing.labels.numbers.size} images have no label; the first is "
            f"{listing.describe(int(missing[0]))}. Add the labels, or leave the images out."
        )


def _name_classes(root: Path, labels: Labels, given: Sequence[str] | None) -> Sequence[str]:
    if given is not None:
        return list(given)
    if labels.names is not None:
        return sorted(labels.names)
    classes, seen = int(labels.numbers.max(initial=-1)) + 1, len(np.unique(labels.numbers))
    if classes > 10 * seen + _UNSEEN:
        raise ValueError(
            f"The labels in {str(root)!r} are {seen} different numbers up to {classes - 1}, which "
            "would make as many classes. Number the classes from 0, or name all of them: "
            "--class-names FILE."
        )
    return class_numbers(classes)


def _number(listing: Listing[Part], labels: Labels, class_names: Sequence[str]) -> np.ndarray:
    """Labels as indices into `class_names`."""
    numbers, names = labels
    if names is not None:
        label_of = _labels_by_name(class_names)
        numbers = np.asarray([label_of.get(name, NO_LABEL) for name in names], np.int32)[numbers]
    wrong = np.flatnonzero((numbers < 0) | (numbers >= len(class_names)))
    if wrong.size:
        first = int(wrong[0])
        label = int(labels.numbers[first])
        found, problem = str(label), label_problem(label, len(class_names))
        if names is not None:
            found = repr(names[label])
            problem = (
                f"the {len(class_names)} classes are {', '.join(class_names[:5])}, ...: correct "
                "it, or the names of the classes."
            )
        raise ValueError(f"{listing.describe(first)} has the label {found}, and {problem}")
    return numbers.astype(np.int32)


def _labels_by_name(class_names: Sequence[str]) -> dict[str, int]:
    label_of: dict[str, int] = {}
    for label, name in enumerate(class_names):
        if label_of.setdefault(name, label) != label:
            raise ValueError(
                f"Classes {label_of[name]} and {label} are both called {name!r}, and the labels of "
                "the images are names: give each class a name of its own."
            )
    return label_of
