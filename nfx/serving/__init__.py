"""Running classifiers without their code: artifacts, and what is in images.

Nothing here knows a model: reading and running an artifact imports neither `nfx.models` nor
`nfx.nn` nor Equinox.
"""

from nfx.serving._artifact import Artifact as Artifact
from nfx.serving._files import (
    check_destination as check_destination,
    is_artifact as is_artifact,
    load_artifact as load_artifact,
    save_artifact as save_artifact,
)
from nfx.serving._manifest import (
    ArtifactError as ArtifactError,
    BatchSize as BatchSize,
    FORMAT as FORMAT,
    ImageFormat as ImageFormat,
    Manifest as Manifest,
    PLATFORMS as PLATFORMS,
    Storage as Storage,
)
from nfx.serving._predictions import (
    centre_view as centre_view,
    ClassScore as ClassScore,
    name_images as name_images,
    predict_images as predict_images,
    Prediction as Prediction,
)
