"""Labelled images: sources, what is made of them, and the order they arrive in. No JAX."""

from nfx.data._array_record import (
    ArrayRecordSource as ArrayRecordSource,
    load_records as load_records,
    verify_records as verify_records,
)
from nfx.data._class_names import (
    class_numbers as class_numbers,
    read_class_names as read_class_names,
)
from nfx.data._convert import convert as convert, Progress as Progress
from nfx.data._decode import decode as decode
from nfx.data._folder import (
    FolderSource as FolderSource,
    list_images as list_images,
    load_folder as load_folder,
)
from nfx.data._images import (
    BadImage as BadImage,
    BadImageError as BadImageError,
    Example as Example,
    Images as Images,
    PADDING_LABEL as PADDING_LABEL,
)
from nfx.data._inputs import load_images as load_images, OrderedImages as OrderedImages
from nfx.data._loading import Batch as Batch, Loading as Loading
from nfx.data._manifest import (
    DatasetError as DatasetError,
    Manifest as Manifest,
    Shard as Shard,
)
from nfx.data._open import open_sources as open_sources
from nfx.data._parquet import load_parquet as load_parquet, ParquetImages as ParquetImages
from nfx.data._pipeline import (
    evaluation_batches as evaluation_batches,
    kept_batch as kept_batch,
    training_batches as training_batches,
    training_indices as training_indices,
)
from nfx.data._sample import (
    load_sample as load_sample,
    SAMPLE_CLASSES as SAMPLE_CLASSES,
    SAMPLE_SHAPE as SAMPLE_SHAPE,
)
from nfx.data._sources import (
    ArraySource as ArraySource,
    ImageError as ImageError,
    no_images as no_images,
    NoiseSource as NoiseSource,
    Record as Record,
    Source as Source,
    Splits as Splits,
)
from nfx.data._strings import Strings as Strings
from nfx.data._survey import Survey as Survey, survey as survey
from nfx.data._tar import load_tars as load_tars, TarSource as TarSource
from nfx.data._transforms import (
    AsStored as AsStored,
    CentreView as CentreView,
    Decoder as Decoder,
    ImageTransform as ImageTransform,
    RandomCrop as RandomCrop,
)
from nfx.data._views import ViewRule as ViewRule, VIEWS as VIEWS
