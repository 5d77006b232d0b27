"""What is published about a model, beside its graph."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple


# Rules of evaluation; `nfx.data.VIEWS` says what they do.
View = Literal["official_squash", "official_crop", "timm", "timm_squash"]

# Of the pixels of ImageNet, on a scale of 0 to 1, as the official code has them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ModelCard(NamedTuple):
    """How a model is used on images, and how well it did.

    Attributes:
        lineage: Whose model it is.
        mean: Mean of the pixels it was trained on, on a scale of 0 to 1.
        std: Their standard deviation.
        crop: Side of the central crop over the side of the resized test image.
        view: How a test image becomes the square that is looked at: a rule of `nfx.data.VIEWS`.
        top1: Published accuracy on ImageNet's validation images at the test size, in percent.
        source: Who says so.
    """

    lineage: Literal["official", "timm", "nfx", "batch norm"]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: float = 1.0
    view: View = "timm"
    top1: float | None = None
    source: str = ""


# The official README: 360 epochs at batch 4096; F6 with SAM.
_OFFICIAL_TOP1: Mapping[str, float] = MappingProxyType({
    "nfnet_f0": 83.6, "nfnet_f1": 84.7, "nfnet_f2": 85.1, "nfnet_f3": 85.7, "nfnet_f4": 85.9,
    "nfnet_f5": 86.0, "nfnet_f6": 86.5,
})  # fmt: skip

# timm's `default_cfgs`, where they are not the usual 0.9.
_TIMM_CROPS: Mapping[str, float] = MappingProxyType({
    "dm_nfnet_f0": 0.9, "dm_nfnet_f1": 0.91, "dm_nfnet_f2": 0.92, "dm_nfnet_f3": 0.94,
    "dm_nfnet_f4": 0.951, "dm_nfnet_f5": 0.954, "dm_nfnet_f6": 0.956,
    "nfnet_l0": 1.0, "eca_nfnet_l0": 1.0, "eca_nfnet_l1": 1.0, "eca_nfnet_l2": 1.0,
    "eca_nfnet_l3": 1.0, "nf_resnet50": 0.94, "test_nfnet": 0.95,
})  # fmt: skip


def official_card(name: str, test_size: int) -> ModelCard:
    """Returns the card of an official model.

    Both official evaluations look at `test_size` pixels of `test_size + 32`.
    """
    top1 = _OFFICIAL_TOP1.get(name)
    return ModelCard(
        "official",
        crop=test_size / (test_size + 32),
        view="official_squash" if name.startswith("nfnet") else "official_crop",
        top1=top1,
        source="official README" if top1 else "",
    )


def timm_card(name: str) -> ModelCard:
    """Returns the card of one of timm's models, by its name there."""
    half = (0.5, 0.5, 0.5)
    mean, std = (half, half) if name == "test_nfnet" else (IMAGENET_MEAN, IMAGENET_STD)
    view = "timm_squash" if name.startswith("dm_") else "timm"
    return ModelCard("timm", mean, std, _TIMM_CROPS.get(name, 0.9), view)
