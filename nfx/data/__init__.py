"""Labelled images: sources and the order they arrive in. NumPy and Grain; no JAX."""

from nfx.data._folder import FolderSource as FolderSource, load_folder as load_folder
from nfx.data._pipeline import (
    PADDING_LABEL as PADDING_LABEL,
    Batch as Batch,
    evaluation_batches as evaluation_batches,
    training_batches as training_batches,
)
from nfx.data._sources import (
    SAMPLE_CLASSES as SAMPLE_CLASSES,
    ArraySource as ArraySource,
    Example as Example,
    Source as Source,
    Splits as Splits,
    check_labels as check_labels,
    load_sample as load_sample,
)
