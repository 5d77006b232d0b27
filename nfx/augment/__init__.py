"""Augmentation on the device: pure, per example, inside the jitted step."""

from nfx.augment._mix import cutmix as cutmix, cutmix_mask as cutmix_mask, mixup as mixup
from nfx.augment._pipeline import (
    augment_batch as augment_batch,
    Augmentation as Augmentation,
    normalize as normalize,
    random_flip as random_flip,
)
from nfx.augment._randomness import example_keys as example_keys
