"""What is in a source: classes, sizes, formats, and what cannot be read."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from nfx.data._decode import from_pixels, open_image, to_channels
from nfx.data._folder import FolderSource
from nfx.data._images import BadImage
from nfx.data._sources import ImageError, Source


# Images that a thread looks at before it reports.
_CHUNK = 64


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found in a source.

    Attributes:
        images: How many images it has.
        class_names: Names of its classes.
        counts: How many of the images that can be read are of each class.
        sizes: Width and height of each that can be read, shape `(n, 2)`.
        stored_bytes: Bytes of each that can be read, shape `(n,)`.
        kinds: How many there are of each format and mode of color, as "JPEG RGB".
        bad: Those that cannot be read.
        other_files: How many files of a folder were taken for no images, by suffix.
    """

    images: int
    class_names: Sequence[str]
    counts: np.ndarray
    sizes: np.ndarray
    stored_bytes: np.ndarray
    kinds: Mapping[str, int]
    bad: Sequence[BadImage]
    other_files: Mapping[str, int]

    @property
    def examined(self) -> int:
        """How many were looked at."""
        return len(self.sizes) + len(self.bad)


class _Seen(NamedTuple):
    label: int
    size: tuple[int, int]
    stored_bytes: int
    kind: str


def survey(
    source: Source,
    *,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Survey:
    """Reads and decodes images, to see what they are.

    Args:
        source: The images.
        limit: How many to look at, spread evenly over the source; all by default.
        progress: Is told how many more were looked at.

    Raises:
        ValueError: If the limit is not positive.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be at least 1, or None for all images.")
    count = len(source) if limit is None else min(limit, len(source))
    indices = np.linspace(0, len(source) - 1, count).round().astype(np.int64)

    def look(chunk: np.ndarray) -> list[_Seen | BadImage]:
        return [_look(source, int(index)) for index in chunk]

    found: list[_Seen | BadImage] = []
    with ThreadPoolExecutor() as pool:
        for part in pool.map(look, np.array_split(indices, max(1, -(-count // _CHUNK)))):
            found += part
            progress(len(part))
    seen = [each for each in found if isinstance(each, _Seen)]
    names = source.class_names
    return Survey(
        images=len(source),
        class_names=names,
        counts=np.bincount([each.label for each in seen], minlength=len(names)),
        sizes=np.asarray([each.size for each in seen], np.int64).reshape(-1, 2),
        stored_bytes=np.asarray([each.stored_bytes for each in seen], np.int64),
        kinds=dict(collections.Counter(each.kind for each in seen).most_common()),
        bad=[each for each in found if isinstance(each, BadImage)],
        other_files=source.other_files if isinstance(source, FolderSource) else {},
    )


def _look(source: Source, index: int) -> _Seen | BadImage:
    name = ""
    try:
        image, label, name = source[index]
        if isinstance(image, np.ndarray):
            from_pixels(image, 3)  # as training does
            height, width, channels = image.shape
            return _Seen(label, (width, height), image.nbytes, f"array of {channels} channels")
        opened = open_image(image)
        kind = f"{opened.format} {opened.mode}"
        to_channels(opened, 3)  # as training does: not all that can be read can be converted
        return _Seen(label, opened.size, len(image), kind)
    except ImageError as error:
        return BadImage(index, error.name or name, str(error))
