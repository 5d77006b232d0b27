"""From a model to a program that no longer needs its code."""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from nfx._checks import at_least
from nfx._dtypes import Dtype
from nfx._names import check_choice, did_you_mean
from nfx._tree import leaves_by_path, parameter_count
from nfx.augment import normalize
from nfx.graph import fold_weight_standardization, is_folded
from nfx.models import apply_batch, check_state
from nfx.serving import Artifact, BatchSize, ImageFormat, Manifest, PLATFORMS, Storage


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What kind of program to export.

    Attributes:
        platforms: Where it will run: "cpu", "cuda", "rocm", "tpu". None of them has to be here.
        batch_size: Images of a call; "symbolic" is any number.
        dtype: What to compute in. Of a normalizer-free network the weights are stored in it too.
        weights: "separate" makes them arguments of the program and a file of their own; "baked"
            makes them constants, which take long to compile in all but small models.

    Raises:
        ValueError: If a value is none of these.
    """

    platforms: tuple[str, ...] = ("cpu", "tpu", "cuda")
    batch_size: BatchSize = "symbolic"
    dtype: Dtype = "float32"
    weights: Storage = "separate"

    def __post_init__(self) -> None:
        """Checks the values."""
        for platform in self.platforms:
            if platform not in PLATFORMS:
                raise ValueError(
                    f"There is no platform {platform!r}. {did_you_mean(platform, PLATFORMS)}"
                )
        if not self.platforms or len(set(self.platforms)) < len(self.platforms):
            raise ValueError(f"platforms={self.platforms} must be one or more, each once.")
        if self.batch_size != "symbolic":
            at_least(1, batch_size=self.batch_size)
        check_choice("dtype", self.dtype, get_args(Dtype))
        check_choice("weights", self.weights, get_args(Storage))


def export_classifier(
    model: PyTree,
    *,
    name: str,
    images: ImageFormat,
    class_names: Sequence[str],
    statistics: PyTree = None,
    options: ExportOptions = ExportOptions(),
) -> Artifact:
    """Lowers a classifier from pixels to logits, for inference on other machines.

    Of a normalizer-free network the weights are standardized here, once, and not in the program;
    it may be folded already.

    Args:
        model: A model of `nfx.create_model`.
        name: What to call it.
        images: The images it takes.
        class_names: What its logits stand for.
        statistics: The state of a batch-normalized model.
        options: What kind of program.

    Raises:
        ValueError: If the names are not as many as the classes, the model does not take such
            images, or is batch-normalized and without its state.
    """
    check_state(model, statistics)
    classes = model.num_classes
    if classes != len(class_names):  # before what takes long
        raise ValueError(
            f"There are {len(class_names)} names, and the model has {classes} classes."
        )
    parameters = parameter_count((model, statistics))
    if statistics is None:
        model = model if is_folded(model) else jax.jit(fold_weight_standardization)(model)
        model = jax.tree.map(lambda leaf: leaf.astype(options.dtype), model)
    leaves, rebuild = _flatten(model, statistics)
    arrays = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    baked = options.weights == "baked"

    def program(arguments: list[Array], pixels: UInt8[Array, "n h w c"]) -> Array:
        values = map(jnp.asarray, arrays.values()) if baked else arguments
        by_name = dict(zip(arrays if baked else sorted(arrays), values, strict=True))
        return pixels_to_logits(*rebuild(by_name), pixels, images, options.dtype)

    weights = {} if baked else arrays
    exported = _export_program(program, weights, images, options)
    manifest = _manifest(exported, parameters, name, images, class_names, options)
    return Artifact(manifest, exported, weights)


def pixels_to_logits(
    model: PyTree,
    statistics: PyTree,
    pixels: UInt8[Array, "n h w c"],
    images: ImageFormat,
    dtype: str = "float32",
) -> Float[Array, "n classes"]:
    """Computes float32 logits of images as they come from files.

    Args:
        model: A model of `nfx.create_model`.
        statistics: Its state, or None.
        pixels: The images.
        images: How to normalize them.
        dtype: What to compute in.
    """
    normalized = normalize(pixels, images.mean, images.std).astype(dtype)
    return apply_batch(model, statistics, normalized)[0].astype(jnp.float32)


def _export_program(
    program: Callable[..., Array],
    weights: dict[str, np.ndarray],
    images: ImageFormat,
    options: ExportOptions,
) -> jax.export.Exported:
    """Exports with the weights as a list by the order of their names.

    A list, because `jax.export` cannot serialize the structure of Equinox's modules.
    """
    size = options.batch_size
    count = jax.export.symbolic_shape("n")[0] if size == "symbolic" else size
    leaves = [jax.ShapeDtypeStruct(weights[n].shape, weights[n].dtype) for n in sorted(weights)]
    pixels = jax.ShapeDtypeStruct((count, *images.shape), jnp.uint8)
    return jax.export.export(jax.jit(program), platforms=options.platforms)(leaves, pixels)


def _manifest(
    exported: jax.export.Exported,
    parameters: int,
    name: str,
    images: ImageFormat,
    class_names: Sequence[str],
    options: ExportOptions,
) -> Manifest:
    return Manifest(
        model=name,
        images=images,
        class_names=tuple(class_names),
        platforms=tuple(exported.platforms),
        batch_size=options.batch_size,
        dtype=options.dtype,
        weights=options.weights,
        parameters=parameters,
        jax=jax.__version__,
        calling_convention=exported.calling_convention_version,
        nfx=importlib.metadata.version("nfx"),
    )


def _flatten(
    model: PyTree, statistics: PyTree
) -> tuple[dict[str, Any], Callable[[dict[str, Any]], tuple[PyTree, PyTree]]]:
    """The leaves by path, those of the state below `statistics/`, and the way back."""
    state = {f"statistics/{path}": leaf for path, leaf in leaves_by_path(statistics).items()}
    leaves = {**leaves_by_path(model), **state}
    structure = jax.tree.structure((model, statistics))
    return leaves, lambda by_name: structure.unflatten([by_name[path] for path in leaves])
