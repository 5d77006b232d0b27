"""What normalizer-free training needs on top of optax."""

from nfx.optim._agc import (
    adaptive_grad_clip as adaptive_grad_clip,
    AGC_PRESETS as AGC_PRESETS,
    clip_unitwise as clip_unitwise,
    clipped_leaves as clipped_leaves,
    ClipState as ClipState,
    NonFinite as NonFinite,
    UnitsArgument as UnitsArgument,
    unitwise_norm as unitwise_norm,
)
from nfx.optim._describe import (
    describe as describe,
    Description as Description,
    LeafTreatment as LeafTreatment,
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
from nfx.optim._sam import sharpness_aware as sharpness_aware
from nfx.optim._schedules import (
    scaled_learning_rate as scaled_learning_rate,
    warmup_cosine as warmup_cosine,
    warmup_exponential as warmup_exponential,
)
from nfx.optim._telemetry import clip_telemetry as clip_telemetry, ClipTelemetry as ClipTelemetry
