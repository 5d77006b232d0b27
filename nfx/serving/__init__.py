"""Running classifiers without their code: artefacts, and what is in images.

Nothing here knows a model: reading and running an artefact imports neither `nfx.models` nor
`nfx.nn` nor Equinox.
"""

from nfx.serving._artefact import Artefact as Artefact
from nfx.serving._files import (
    check_destination as check_destination,
    is_artefact as is_artefact,
    load_artefact as load_artefact,
    save_artefact as save_artefact,
)
from nfx.serving._manifest import (
    ArtefactError as ArtefactError,
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
