"""The images that nfx carries."""

from importlib import resources

import numpy as np

from nfx.data._images import Images
from nfx.data._sources import Splits


SAMPLE_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

SAMPLE_SHAPE = (28, 28, 1)


def load_sample() -> Splits[Images]:
    """Loads the sample that nfx carries: photos of clothes, 28x28 pixels, in gray.

    It is a stratified subset of Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017,
    arXiv:1708.07747; MIT licence, copyright 2017 Zalando SE): 5,000 images to train on and
    1,000 to test with, the same number of each of ten classes.
    """
    path = resources.files("nfx.data") / "fashion_mnist_6k.npz"
    with path.open("rb") as file, np.load(file) as arrays:
        return Splits(
            Images.from_arrays(arrays["x"][..., None], arrays["y"], SAMPLE_CLASSES),
            Images.from_arrays(arrays["xt"][..., None], arrays["yt"], SAMPLE_CLASSES),
        )
