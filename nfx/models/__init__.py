"""Normalizer-free networks, by name."""

from nfx.models._features import FeatureInfo as FeatureInfo, Features as Features
from nfx.models._nfnet import NFBlock as NFBlock, NFNet as NFNet, Stage as Stage
from nfx.models._registry import (
    create_model as create_model,
    list_models as list_models,
    model_variant as model_variant,
    MODELS as MODELS,
)
from nfx.models._variant import CONVENTIONS as CONVENTIONS, NFNetVariant as NFNetVariant
