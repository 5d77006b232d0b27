"""How published models were trained on ImageNet, and fine-tuned on it.

References:
    The official code: `experiment_nfnets.py` (Brock et al. 2021, arXiv:2102.06171),
    `experiment_nf_regnets.py` and `experiment.py` (2021, arXiv:2101.08692). Sharpness-aware
    minimization and fine-tuning: the first paper's appendices A.4 and A.5, section 6.1.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from nfx.augment import NF_REGNET_ORDER
from nfx.models import model_variant
from nfx.recipes._recipe import Recipe


_IMAGES = 1_281_167  # that ImageNet has to train on

# RandAugment's level of each NFNet; all have four layers.
_RANDAUGMENT_LEVELS = {
    "nfnet_f0": 5, "nfnet_f1": 10, "nfnet_f2": 10, "nfnet_f3": 15, "nfnet_f4": 15, "nfnet_f5": 15,
    "nfnet_f6": 15,
}  # fmt: skip

_NF_REGNETS = tuple(f"nf_regnet_b{level}" for level in range(6))

_NF_RESNETS = tuple(f"nf_resnet{depth}" for depth in (50, 101, 152, 200, 288))


def _on_imagenet(name: str, batch_size: int, epochs: int) -> Recipe:
    """What all have in common: the sizes of the variant, and a warm-up of five epochs."""
    variant = model_variant(name)
    return Recipe(
        data="",
        model=name,
        image_size=variant.train_size,
        test_size=variant.test_size,
        color="rgb",
        crop_area=0.08,
        batch_size=batch_size,
        steps=epochs * _IMAGES // batch_size,
        warmup_steps=5 * _IMAGES / batch_size,
        learning_rate=0.1,
        dropout=variant.drop_rate,
        stochastic_depth=variant.stochastic_depth_rate,
    )


def _nfnet(name: str) -> Recipe:
    return replace(
        _on_imagenet(name, batch_size=4096, epochs=360),
        precision="official_bf16",
        weight_decay=2e-5,
        clipping=0.01,
        ema=0.99999,
        stochastic_depth=0.25,
        randaugment_layers=4,
        randaugment_level=_RANDAUGMENT_LEVELS[name.removesuffix("+")],
        randaugment_rules="official",
        mixup=0.2,
        cutmix=True,
    )


def _nfnet_with_sam(name: str) -> Recipe:
    """As the two largest were trained for the paper's best accuracies.

    There the first gradient is of a fifth of the batch, and each device goes up its own; here it
    is of the whole batch and the same for all, which costs twice the time and not 1.2 to 1.4 times.
    The radius is that of fine-tuning and SAM's own for ImageNet: for this the paper names none.
    """
    return replace(_nfnet(name), sharpness_radius=0.05)


def _nfnet_fine_tuned(name: str) -> Recipe:
    """As the paper fine-tunes from JFT-300M, whose weights were not released: give `init`.

    It names neither sizes nor augmentation: sizes are the variant's, and there are crops and flips.
    The average's decay is that of its NF-ResNets.
    """
    return replace(
        _nfnet(name),
        batch_size=2048,
        steps=15_000,
        warmup_steps=5000.0,
        learning_rate=0.1 * 256 / 2048,  # 0.1, whatever the batch
        weight_decay=1e-5,
        sharpness_radius=0.05,
        ema=0.9999,
        dropout=0.25,
        stochastic_depth=0.1,
        randaugment_layers=0,
        mixup=0.0,
        cutmix=False,
    )


def _nf_regnet(name: str) -> Recipe:
    """The rate is 0.4 there, whatever the batch, and ends at 0.001: at 1024, 0.1 for each 256."""
    return replace(
        _on_imagenet(name, batch_size=1024, epochs=360),
        final_learning_rate=0.001,
        weight_decay=(5 + _NF_REGNETS.index(name)) / 1e5,
        clipping=None,
        ema=0.99999,
        mixup=0.2,
        cutmix=True,
        augment_order=NF_REGNET_ORDER,
    )


def _nf_resnet(name: str) -> Recipe:
    return replace(
        _on_imagenet(name, batch_size=1024, epochs=90),
        weight_decay=1e-4,
        clipping=None,
        ema=0.0,
    )


_FAMILIES = (
    (_nfnet, "imagenet", tuple(_RANDAUGMENT_LEVELS)),
    (_nfnet_with_sam, "sam-imagenet", ("nfnet_f5", "nfnet_f6")),
    (_nfnet_fine_tuned, "finetune-imagenet", ("nfnet_f4", "nfnet_f4+")),
    (_nf_regnet, "imagenet", _NF_REGNETS),
    (_nf_resnet, "imagenet", _NF_RESNETS),
)


def _rows() -> Iterator[tuple[str, Recipe]]:
    for build, suffix, names in _FAMILIES:
        for name in names:
            yield f"{name}-{suffix}", build(name)


# The stochastic depth of NF-ResNets is the variants': their configuration does not say.
PUBLISHED: Mapping[str, Recipe] = MappingProxyType(dict(_rows()))
