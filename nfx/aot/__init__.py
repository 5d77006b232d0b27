"""Programs ahead of time."""

from nfx.aot._export import (
    Dtype as Dtype,
    export_classifier as export_classifier,
    ExportOptions as ExportOptions,
    pixels_to_logits as pixels_to_logits,
)
