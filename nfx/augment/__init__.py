"""Augmentation on the device: pure, per example, inside the jitted step."""

from nfx.augment._mix import cutmix as cutmix, mixup as mixup
from nfx.augment._pipeline import (
    augment_batch as augment_batch,
    Augmentation as Augmentation,
    NF_REGNET_ORDER as NF_REGNET_ORDER,
    NFNET_ORDER as NFNET_ORDER,
    Stage as Stage,
)
from nfx.augment._randaugment import (
    randaugment as randaugment,
    RandAugmentRules as RandAugmentRules,
)
from nfx.augment._randomness import example_keys as example_keys
from nfx.augment._simple import (
    normalize as normalize,
    random_erase as random_erase,
    random_flip as random_flip,
)
