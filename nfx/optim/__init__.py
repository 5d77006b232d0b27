"""What normalizer-free training needs on top of optax."""

from nfx.optim._agc import (
    adaptive_grad_clip as adaptive_grad_clip,
    clip_unitwise as clip_unitwise,
    ClipCount as ClipCount,
    count_clipped as count_clipped,
    unitwise_norm as unitwise_norm,
)
from nfx.optim._ema import (
    ema_decay as ema_decay,
    ema_parameters as ema_parameters,
    EmaState as EmaState,
    parameter_ema as parameter_ema,
)
from nfx.optim._freeze import train_only as train_only
from nfx.optim._nfnet_sgd import (
    nfnet_sgd as nfnet_sgd,
    OFFICIAL_GROUPS as OFFICIAL_GROUPS,
    ParameterGroups as ParameterGroups,
)
from nfx.optim._schedules import (
    scaled_learning_rate as scaled_learning_rate,
    warmup_cosine as warmup_cosine,
    warmup_exponential as warmup_exponential,
)
