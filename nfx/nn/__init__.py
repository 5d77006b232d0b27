"""The parts of normalizer-free networks. Modules take one example; `jax.vmap` sits outside."""

from nfx.nn._activations import (
    Activation as Activation,
    ACTIVATIONS as ACTIVATIONS,
    ELEMENTWISE as ELEMENTWISE,
)
from nfx.nn._attention import (
    EfficientChannelAttention as EfficientChannelAttention,
    SqueezeExcite as SqueezeExcite,
)
from nfx.nn._batch_norm import BatchNorm as BatchNorm, BatchStatistics as BatchStatistics
from nfx.nn._channels import round_channels as round_channels
from nfx.nn._conv import Conv2d as Conv2d, draw_kernel as draw_kernel, WSConv2d as WSConv2d
from nfx.nn._convolve import (
    convolve as convolve,
    Padding as Padding,
    window_padding as window_padding,
)
from nfx.nn._ledger import (
    block_betas as block_betas,
    block_stochastic_depth_rates as block_stochastic_depth_rates,
)
from nfx.nn._linear import Linear as Linear
from nfx.nn._lowering import Lowering as Lowering, LOWERINGS as LOWERINGS
from nfx.nn._pool import average_pool as average_pool, max_pool as max_pool
from nfx.nn._stack import check_loop as check_loop, Remat as Remat, Stack as Stack
from nfx.nn._standardize import (
    Standardization as Standardization,
    STANDARDIZATIONS as STANDARDIZATIONS,
    standardize_weight as standardize_weight,
    standardize_weight_timm as standardize_weight_timm,
)
from nfx.nn._stochastic import dropout as dropout, StochasticDepth as StochasticDepth
