"""Rewrites of a network's graph: pure functions from model to model."""

from nfx._tree import replace_fields as replace_fields
from nfx.graph._cast import cast as cast
from nfx.graph._classifier import reset_classifier as reset_classifier
from nfx.graph._fold import (
    fold_weight_standardization as fold_weight_standardization,
    is_folded as is_folded,
)
from nfx.graph._input_channels import adapt_input_channels as adapt_input_channels
from nfx.graph._split_channels import (
    attention_is_split as attention_is_split,
    channel_rules as channel_rules,
    is_split as is_split,
    split_channels as split_channels,
    whole_blocks as whole_blocks,
)
from nfx.graph._stack import (
    stack_blocks as stack_blocks,
    stack_like as stack_like,
    unstack_blocks as unstack_blocks,
)
from nfx.graph._taps import module_paths as module_paths, taps as taps
