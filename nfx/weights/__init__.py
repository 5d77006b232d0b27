"""Parameters from elsewhere, and back."""

from nfx.weights._files import (
    check_destination as check_destination,
    read_description as read_description,
    read_weights as read_weights,
    WeightsError as WeightsError,
    write_weights as write_weights,
)
from nfx.weights._official import (
    from_official as from_official,
    official_names as official_names,
    to_official as to_official,
)
from nfx.weights._pretrained import (
    load_pretrained as load_pretrained,
    pretrained_model as pretrained_model,
)
from nfx.weights._timm import from_timm as from_timm, timm_names as timm_names, to_timm as to_timm
