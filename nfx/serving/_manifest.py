"""What an artifact says of itself."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

from nfx._files import json_digest


# The layout of an artifact's directory. It is raised when a reader of the old one would go wrong.
FORMAT = 2

# Names of `jax.export`.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

# What is so of the images of all artifacts: how a file is resized, and of what its pixels are, from
# 0 to 255.
_ALL_IMAGES = {"resampling": "bicubic", "dtype": "uint8"}

BatchSize = int | Literal["symbolic"]
Storage = Literal["separate", "baked"]


class ArtifactError(ValueError):
    """An artifact that is missing, damaged, or made for something else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """The images that a classifier takes, and how a file becomes one.

    Attributes:
        size: Side of the square, in pixels.
        channels: 3 for RGB, 1 for gray.
        mean: Mean of the pixels, on a scale of 0 to 1.
        std: Their standard deviation.
        crop: Share of the side of a file's resized image that is looked at, its centre.
        view: How it becomes the square: a rule of `nfx.data.VIEWS`.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    view: str = "timm"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.size, self.size, self.channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact holds.

    Attributes:
        model: The model's name.
        images: What it takes.
        class_names: What its logits stand for, in order.
        platforms: Where the program runs.
        batch_size: Images of a call; "symbolic" is any number.
        dtype: What is computed in; logits are float32.
        weights: Whether the weights are a file and arguments of the program ("separate"), or
            constants in it ("baked").
        parameters: How many the model has, statistics among them; folded, it has fewer.
        jax: The version of JAX that wrote the program.
        calling_convention: The version of `jax.export`'s calling convention.
        nfx: The version of nfx.
    """

    model: str
    images: ImageFormat
    class_names: tuple[str, ...]
    platforms: tuple[str, ...]
    batch_size: BatchSize
    dtype: str
    weights: Storage
    parameters: int
    jax: str
    calling_convention: int
    nfx: str


def write_manifest(manifest: Manifest, files: Mapping[str, Any]) -> str:
    """Renders a manifest as JSON, signed by a checksum of itself against accidents.

    Args:
        manifest: What to say.
        files: The size and SHA-256 of each file by name.
    """
    document = {"format": FORMAT, **dataclasses.asdict(manifest), "files": dict(files)}
    document["images"] |= _ALL_IMAGES
    return json.dumps({**document, "sha256": json_digest(document)}, indent=2) + "\n"


def read_manifest(text: str) -> tuple[Manifest, dict[str, Any]]:
    """Parses what `write_manifest` rendered: the manifest and the files.

    Raises:
        ArtifactError: If it is damaged, edited, or of another format.
    """
    try:
        document = dict(json.loads(text))
        version, digest = int(document["format"]), document.pop("sha256", None)
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"its manifest.json is damaged ({error!r})") from error
    if version != FORMAT:
        raise ArtifactError(
            f"it is of format {version}, and this nfx reads {FORMAT}: install the nfx that wrote "
            f"it ({document.get('nfx')}), or export again"
        )
    if digest != json_digest(document):
        raise ArtifactError("its manifest.json was damaged or edited: its checksum does not fit")
    files = document.pop("files")
    del document["format"]
    return _manifest(document), files


def _manifest(document: Mapping[str, Any]) -> Manifest:
    try:
        fields = {name: _frozen(value) for name, value in document.items()}
        images = {name: _frozen(value) for name, value in document["images"].items()}
        for name, known in _ALL_IMAGES.items():
            if (found := images.pop(name)) != known:
                raise ArtifactError(
                    f"its images are of {name} {found!r}, and this nfx knows {known!r} alone: "
                    f"install the nfx that wrote it ({document['nfx']})"
                )
        return Manifest(**{**fields, "images": ImageFormat(**images)})
    except (TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"its manifest.json lacks something ({error!r})") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
