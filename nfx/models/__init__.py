"""Normalizer-free networks, and the batch-normalized ones they replace, by name."""

from nfx.models._apply import (
    apply_batch as apply_batch,
    check_state as check_state,
    initial_statistics as initial_statistics,
)
from nfx.models._batch_norm_block import BatchNormBlock as BatchNormBlock
from nfx.models._batch_norm_net import (
    BatchNormNet as BatchNormNet,
    NetStatistics as NetStatistics,
)
from nfx.models._batch_norm_variant import BatchNormVariant as BatchNormVariant
from nfx.models._cards import (
    IMAGENET_MEAN as IMAGENET_MEAN,
    IMAGENET_STD as IMAGENET_STD,
    ModelCard as ModelCard,
)
from nfx.models._features import FeatureInfo as FeatureInfo, Features as Features
from nfx.models._nf_block import Convolution as Convolution, NFBlock as NFBlock
from nfx.models._nfnet import NFNet as NFNet, Stage as Stage
from nfx.models._registry import (
    create_model as create_model,
    is_batch_normalized as is_batch_normalized,
    list_models as list_models,
    model_card as model_card,
    model_variant as model_variant,
    ModelEntry as ModelEntry,
    MODELS as MODELS,
)
from nfx.models._sizes import model_sizes as model_sizes, ModelSize as ModelSize
from nfx.models._variant import CONVENTIONS as CONVENTIONS, NFNetVariant as NFNetVariant
