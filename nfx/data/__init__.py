"""Labelled images: sources, what is made of them, and the order they arrive in. No JAX."""

from nfx.data._crops import (
    Box as Box,
    central_square as central_square,
    sample_crop as sample_crop,
)
from nfx.data._decode import decode as decode, ImageError as ImageError
from nfx.data._folder import (
    FolderSource as FolderSource,
    list_images as list_images,
    load_folder as load_folder,
    View as View,
)
from nfx.data._pipeline import (
    Batch as Batch,
    evaluation_batches as evaluation_batches,
    PADDING_LABEL as PADDING_LABEL,
    training_batches as training_batches,
)
from nfx.data._resize import resize_bicubic as resize_bicubic
from nfx.data._sources import (
    ArraySource as ArraySource,
    check_labels as check_labels,
    Example as Example,
    load_sample as load_sample,
    SAMPLE_CLASSES as SAMPLE_CLASSES,
    Source as Source,
    Splits as Splits,
)
from nfx.data._transforms import (
    AsStored as AsStored,
    CentreView as CentreView,
    Decoder as Decoder,
    ImageTransform as ImageTransform,
    RandomCrop as RandomCrop,
)
from nfx.data._views import ViewRule as ViewRule, VIEWS as VIEWS
