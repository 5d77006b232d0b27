"""Images in folders, one folder a class."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nfx.data._sources import Example, Splits


_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

# Without a test folder, one image in this many of each class is held out.
_HOLD_OUT = 10


class View(NamedTuple):
    """Which part of an image is looked at: its centre.

    Attributes:
        crop: Share of the side that is kept.
        squash: Whether the whole width and height count, and the aspect is lost, or the largest
            part of the wanted aspect.
    """

    crop: float = 1.0
    squash: bool = False


_WHOLE = View()


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Image files, decoded when asked for.

    Attributes:
        files: One path an image.
        labels: One label an image.
        class_names: One name a class.
        image_shape: Height, width and channels to decode to; one channel is gray, three are RGB.
        view: Which part of the image is resized to that (bicubic, antialiased).
    """

    files: Sequence[Path]
    labels: np.ndarray
    class_names: Sequence[str]
    image_shape: tuple[int, int, int]
    view: View = _WHOLE

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        """Decodes the image at `index`.

        Raises:
            ValueError: If the file is not a readable image, naming it.
        """
        image = _decode(self.files[index], self.image_shape, self.view)
        return Example(image, int(self.labels[index]))


def load_folder(root: str | Path, *, image_size: int, channels: int = 3) -> Splits:
    """Indexes a folder of images, without decoding any.

    Args:
        root: Either `train/CLASS/*.jpg` and `test/CLASS/*.jpg` (or `val`), or
            `CLASS/*.jpg`, of which every tenth image of a class, in the order of their names,
            becomes the test set.
        image_size: Side to decode to, in pixels.
        channels: 3 for RGB, 1 for gray.

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
    train, test = _split_files(root)
    names = sorted(train)
    unknown = sorted(set(test) - set(train))
    if len(names) < 2 or not test or unknown:
        raise ValueError(
            f"{str(root)!r} has {len(names)} classes to train on ({', '.join(names[:5])}) and "
            f"{len(test)} to test with"
            + (f", of which {', '.join(unknown[:5])} only to test with" if unknown else "")
            + ". Expected at least two, in train/CLASS/*.jpg and test/CLASS/*.jpg or in "
            f"CLASS/*.jpg with {_HOLD_OUT} images or more a class."
        )

    def source(split: dict[str, list[Path]]) -> FolderSource:
        files = [file for name in names for file in split.get(name, [])]
        counts = [len(split.get(name, [])) for name in names]
        labels = np.repeat(np.arange(len(names)), counts)
        return FolderSource(files, labels, names, (image_size, image_size, channels))

    return Splits(source(train), source(test))


def list_images(paths: Sequence[str | Path]) -> list[Path]:
    """Returns the image files among `paths`: files as they are, folders with all below them.

    Raises:
        ValueError: If a path does not exist, or a folder has no images.
    """
    found: list[Path] = []
    for path in (Path(path).expanduser() for path in paths):
        if not path.exists():
            raise ValueError(f"No file or folder {str(path)!r}.")
        files = sorted(_images(path.rglob("*"))) if path.is_dir() else [path]
        if not files:
            raise ValueError(
                f"No images in {str(path)!r}: none of its files ends in "
                f"{', '.join(sorted(_SUFFIXES))}."
            )
        found += files
    return found


def _split_files(root: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Files by class, to train on and to test with."""
    if (root / "train").is_dir():
        test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
        if test is None:
            raise ValueError(f"{str(root)!r} has a folder 'train' and neither 'test' nor 'val'.")
        return _files_by_class(root / "train"), _files_by_class(test)
    files = _files_by_class(root)
    train = {name: _but_every(paths, _HOLD_OUT) for name, paths in files.items()}
    held = {name: paths[_HOLD_OUT - 1 :: _HOLD_OUT] for name, paths in files.items()}
    return train, {name: paths for name, paths in held.items() if paths}


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    classes = (entry for entry in folder.iterdir() if entry.is_dir())
    files = {entry.name: sorted(_images(entry.rglob("*"))) for entry in classes}
    return {name: paths for name, paths in files.items() if paths}


def _images(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in _SUFFIXES]


def _but_every(paths: list[Path], nth: int) -> list[Path]:
    return [path for index, path in enumerate(paths) if index % nth != nth - 1]


def _decode(path: Path, shape: tuple[int, int, int], view: View) -> np.ndarray:
    from PIL import Image, ImageOps  # an extra, and slow to import

    height, width, channels = shape
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"Cannot read {str(path)!r} as an image ({error}). Repair or remove the file."
        ) from error
    box = _box(image.size, width / height, view)
    resized = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized).reshape(shape)


def _box(size: tuple[int, int], aspect: float, view: View) -> tuple[float, float, float, float]:
    """The centred part of an image that a view keeps: left, top, right, bottom."""
    width, height = size
    kept = (width, height) if view.squash else (min(width, height * aspect),
                                                min(height, width / aspect))  # fmt: skip
    horizontal, vertical = kept[0] * view.crop / 2, kept[1] * view.crop / 2
    return (
        width / 2 - horizontal, height / 2 - vertical, width / 2 + horizontal, height / 2 + vertical
    )  # fmt: skip
