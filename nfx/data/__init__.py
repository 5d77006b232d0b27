"""Labelled images: sources and the order they arrive in. NumPy and Grain; no JAX."""

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
from nfx.data._sources import (
    ArraySource as ArraySource,
    check_labels as check_labels,
    Example as Example,
    load_sample as load_sample,
    SAMPLE_CLASSES as SAMPLE_CLASSES,
    Source as Source,
    Splits as Splits,
)
