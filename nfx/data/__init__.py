"""Labelled images: sources and the order they arrive in. NumPy and Grain; no JAX."""

from nfx.data._array_record import (
    ArrayRecordSource as ArrayRecordSource,
    load_records as load_records,
    verify_records as verify_records,
)
from nfx.data._convert import convert as convert, Progress as Progress
from nfx.data._folder import (
    FolderSource as FolderSource,
    list_images as list_images,
    load_folder as load_folder,
)
from nfx.data._inputs import load_images as load_images, OrderedImages as OrderedImages
from nfx.data._manifest import (
    DatasetError as DatasetError,
    Manifest as Manifest,
    Shard as Shard,
)
from nfx.data._parquet import load_parquet as load_parquet, ParquetImages as ParquetImages
from nfx.data._sources import (
    ArraySource as ArraySource,
    check_labels as check_labels,
    ImageError as ImageError,
    load_sample as load_sample,
    NoiseSource as NoiseSource,
    Record as Record,
    SAMPLE_CLASSES as SAMPLE_CLASSES,
    Source as Source,
    Splits as Splits,
)
from nfx.data._strings import Strings as Strings
from nfx.data._tar import load_tars as load_tars, TarSource as TarSource
