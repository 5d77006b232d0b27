"""Augmentation on the device: pure, per example, inside the jitted step."""

from nfx.augment._mix import (
    cutmix as cutmix,
    cutmix_mask as cutmix_mask,
    mixup as mixup,
    paste as paste,
    weighted_mean as weighted_mean,
)
from nfx.augment._pipeline import (
    augment_batch as augment_batch,
    Augmentation as Augmentation,
    NF_REGNET_ORDER as NF_REGNET_ORDER,
    NFNET_ORDER as NFNET_ORDER,
    Stage as Stage,
    stage_keys as stage_keys,
)
from nfx.augment._randaugment import (
    Operation as Operation,
    OPERATIONS as OPERATIONS,
    randaugment as randaugment,
    RandAugmentRules as RandAugmentRules,
)
from nfx.augment._randomness import example_keys as example_keys
from nfx.augment._simple import (
    normalize as normalize,
    random_erase as random_erase,
    random_flip as random_flip,
)
