"""The whole of Fashion-MNIST: 60,000 images to train on, 10,000 to test with."""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from nfx.data import load_sample


# Where Debian's package dataset-fashion-mnist puts the files of the authors.
DIRECTORY = Path("/usr/share/datasets/fashion-mnist")

MEAN, STD = (0.286,), (0.353,)


class Split(NamedTuple):
    """Images as bytes, and their classes."""

    images: UInt8[np.ndarray, "n 28 28 1"]
    labels: Int[np.ndarray, " n"]


class Fashion(NamedTuple):
    """Both splits."""

    train: Split
    test: Split


def load_fashion(directory: Path = DIRECTORY, *, quick: bool = False) -> Fashion:
    """Reads the files of the authors (`*-ubyte.gz`), or what nfx carries of them.

    Args:
        directory: Where the files are.
        quick: Take the 5,000 and 1,000 images that nfx carries.

    Raises:
        FileNotFoundError: If the files are not there.
    """
    if quick:
        return Fashion(*(_gather(split) for split in load_sample()))
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{directory} is not there. On Debian: apt install dataset-fashion-mnist; elsewhere "
            "download the four *-ubyte.gz of https://github.com/zalandoresearch/fashion-mnist and "
            "give their directory as --data."
        )
    return Fashion(*(_read(directory, name) for name in ("train", "t10k")))


def _read(directory: Path, name: str) -> Split:
    images, labels = (
        gzip.decompress((directory / f"{name}-{kind}-ubyte.gz").read_bytes())
        for kind in ("images-idx3", "labels-idx1")
    )
    # After headers of 16 and 8 bytes: the idx format.
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28, 1)
    return Split(pixels, np.frombuffer(labels, np.uint8, offset=8).astype(np.int32))


def _gather(images) -> Split:
    examples = [images.load(index, np.random.default_rng(0)) for index in range(len(images))]
    pixels, labels = zip(*((example.image, example.label) for example in examples), strict=True)
    return Split(np.stack(pixels), np.array(labels, np.int32))
