"""Compiling a model's programs from shapes: what they cost, before anything is allocated."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Float, PyTree, UInt8

from nfx._checks import at_least
from nfx._dtypes import Dtype
from nfx.aot import (
    compile_step,
    CompiledProgram,
    libtpu_version,
    Progress,
    silent,
    topology_devices,
)
from nfx.data import class_numbers, no_images, SAMPLE_CLASSES, Splits
from nfx.models import is_batch_normalized, model_variant
from nfx.recipes._build import abstract_batch, build_parts, check_mesh, Parts
from nfx.recipes._recipe import Recipe, RematName
from nfx.recipes._table import get_recipe
from nfx.sharding import (
    abstract_mesh,
    batch_spec,
    Communication,
    format_mesh,
    parse_mesh_shape,
    read_mesh,
    replicated,
)
from nfx.train import abstract_state, infer, Plan, plan_step, PrecisionName, shard_model


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """What of a model to compile, and how.

    Attributes:
        program: The step that `nfx train` takes, or the network in inference.
        recipe: Whose model, batch, images and hyperparameters to take; without one the NFNet
            paper's, on RGB images of the model's training size.
        batch_size: Images a step, over all devices. The recipe's, or 32.
        image_size: Side of the images, in pixels. The recipe's, or the model's training size.
        num_classes: Length of the logits. 1000, and of the sample 10.
        precision: In which dtypes the network computes: see the recipe's field of that name. By
            default training is in the recipe's, and inference in "float32".
        microbatches: In how many parts each device takes its images of a training step. The
            recipe's, or 1.
        stack: Whether blocks that are alike run in one loop: see `nfx.graph.stack_blocks`. If not,
            the recipe's stack, remat and unroll are taken.
        remat: What the backward pass computes again: nothing, all of a block, or all but its
            convolutions.
        unroll: Blocks to each turn of the loop.
        mesh: Devices to use, as "data=4,fsdp=2"; "data=all" splits the batch over all there are.
            The batch is split over data and fsdp, the state over fsdp, and the channels of blocks
            over model.
        gather_dtype: In what parameters that are split over fsdp go between devices.
        reduce_dtype: In what gradients are added up over the batch.
        topology: A slice of TPUs to compile for, as "v5e:4x4", which need not be here; by default
            the devices of this machine.
    """

    program: Literal["train", "forward"] = "train"
    recipe: str = ""
    batch_size: int | None = None
    image_size: int | None = None
    num_classes: int | None = None
    precision: PrecisionName | None = None
    microbatches: int | None = None
    stack: bool = False
    remat: RematName = "none"
    unroll: int = 1
    mesh: str = "data=all"
    gather_dtype: Dtype = "float32"
    reduce_dtype: Dtype = "float32"
    topology: str = ""

    def __post_init__(self) -> None:
        """Checks what does not depend on the model.

        Raises:
            ValueError: If a number is not positive, inference is to be in microbatches, or blocks
                are to be rematerialized or unrolled and there is no stack of them.
        """
        at_least(
            1,
            batch_size=self.batch_size,
            image_size=self.image_size,
            num_classes=self.num_classes,
            microbatches=self.microbatches,
            unroll=self.unroll,
        )
        if self.microbatches is not None and self.program != "train":
            raise ValueError(
                f"microbatches={self.microbatches} is of the training step, and the program is "
                f"{self.program!r}: give it a smaller batch."
            )
        if self.remat != "none" and not self.stack:
            raise ValueError(
                f"remat={self.remat!r} needs a stack: it says what is computed again of the blocks "
                "of one, and outside of loops XLA merges what is computed twice on CPUs, so that "
                "no memory is saved. Add --stack."
            )
        if self.unroll > 1 and not self.stack:
            raise ValueError(
                f"unroll={self.unroll} needs a stack: without one there is no loop. Add --stack."
            )


def compile_model(
    name: str, options: CompileOptions, *, progress: Progress = silent
) -> CompiledProgram:
    """Compiles a program of a model, without images and without parameters.

    Args:
        name: The model; the recipe's if empty.
        options: Which program, and for what.
        progress: What to show meanwhile: see `nfx.aot.compile_step`.

    Raises:
        ValueError: If there is no such model, recipe or topology, or they, the options and the
            devices do not fit together.
        DeviceMemoryError: If the devices of the topology have not enough memory.
    """
    return compile_recipe(_recipe(name, options), options, progress=progress)


def compile_recipe(
    recipe: Recipe, options: CompileOptions, *, progress: Progress = silent
) -> CompiledProgram:
    """As `compile_model`, of a recipe with what the options change already in it."""
    devices = _devices(options)
    mesh = read_mesh(options.mesh, devices)
    check_mesh(recipe, mesh)
    parts = _parts(recipe, options)
    program, arguments = _PROGRAMS[options.program](recipe, parts, mesh)
    return compile_step(
        program,
        *arguments,
        settings=_settings(recipe, parts, mesh, options),
        model=jax.eval_shape(parts.build_model),
        progress=progress,
    )


def plan_model(name: str, options: CompileOptions) -> Plan:
    """Plans the training step of a model; the devices need not be there.

    Args:
        name: The model; the recipe's if empty.
        options: For what.

    Raises:
        ValueError: If there is no such model or recipe, or they and the options do not fit.
    """
    recipe = _recipe(name, options)
    mesh = abstract_mesh(parse_mesh_shape(options.mesh, len(_devices(options))))
    check_mesh(recipe, mesh)
    parts = _parts(recipe, options)
    return plan_step(
        abstract_state(parts.build_model, parts.optimizer),
        mesh,
        parts.images.train.image_shape,
        recipe.batch_size,
        parts.options,
    )


def _devices(options: CompileOptions) -> Sequence[Any]:
    return topology_devices(options.topology) if options.topology else jax.devices()


def _recipe(name: str, options: CompileOptions) -> Recipe:
    """The recipe to compile, with what the options change."""
    if options.recipe:
        recipe = get_recipe(options.recipe)
        name = name or recipe.model
    elif name:
        recipe = _paper_recipe(name)
    else:
        raise ValueError("Compile what? Give a model that `nfx models` lists, or --recipe NAME.")
    if options.program != "train":  # what a recipe says of these is of its training
        recipe = dataclasses.replace(
            recipe, precision="float32", microbatches=1, mixup=0.0, cutmix=False
        )
    stack = {"stack": True, "remat": options.remat, "unroll": options.unroll}
    return dataclasses.replace(
        recipe,
        model=name,
        batch_size=options.batch_size or recipe.batch_size,
        image_size=options.image_size or recipe.image_size,
        precision=options.precision or recipe.precision,
        microbatches=options.microbatches or recipe.microbatches,
        final_learning_rate=0.0,  # of another batch it might be above the peak; it costs nothing
        **(stack if options.stack else {}),
    )


def _paper_recipe(name: str) -> Recipe:
    """What the NFNet paper trains with; only what changes the program matters.

    Batch-normalized models are trained without clipping.
    """
    variant = model_variant(name)
    return Recipe(
        data="",
        image_size=variant.train_size,
        color="rgb",
        model=name,
        learning_rate=0.1,
        weight_decay=2e-5,
        clipping=None if is_batch_normalized(name) else 0.01,
        ema=0.99999,
        stochastic_depth=variant.stochastic_depth_rate,
        dropout=variant.drop_rate,
    )


def _parts(recipe: Recipe, options: CompileOptions) -> Parts:
    """What the recipe stands for, on no images of the right shape."""
    sample = recipe.data == "sample"
    classes = options.num_classes or (len(SAMPLE_CLASSES) if sample else 1000)
    nothing = no_images(class_numbers(classes))
    parts = build_parts(recipe, Splits(nothing, nothing))
    communication = Communication(options.gather_dtype, options.reduce_dtype)
    return parts._replace(options=parts.options._replace(communication=communication))


# A function to compile, and its arguments.
_Program = tuple[Callable[..., Any], tuple[Any, ...]]


def _training_step(recipe: Recipe, parts: Parts, mesh: Mesh) -> _Program:
    state = abstract_state(parts.build_model, parts.optimizer, mesh)
    key = jax.ShapeDtypeStruct(parts.key.shape, parts.key.dtype, sharding=replicated(mesh))
    batch = abstract_batch(parts.images.train, recipe.batch_size, mesh)
    return parts.train_step(mesh), (state, batch, key)


def _forward(recipe: Recipe, parts: Parts, mesh: Mesh) -> _Program:
    def forward(
        model: PyTree, statistics: PyTree, images: UInt8[Array, "n h w c"]
    ) -> Float[Array, "n classes"]:
        return infer(model, statistics, images, parts.preprocessing, parts.options.precision)

    state = abstract_state(parts.build_model, parts.optimizer, mesh)
    images = abstract_batch(parts.images.train, recipe.batch_size, mesh).images
    split, communication = batch_spec(mesh), parts.options.communication
    sharded = shard_model(
        forward, mesh, communication=communication, in_specs=(P(), split), out_specs=split
    )
    return jax.jit(sharded), (state.model, state.statistics, images)


_PROGRAMS: dict[str, Callable[[Recipe, Parts, Mesh], _Program]] = {
    "train": _training_step,
    "forward": _forward,
}


def _settings(
    recipe: Recipe, parts: Parts, mesh: Mesh, options: CompileOptions
) -> dict[str, str | int | float | bool | None]:
    """What a report remembers of the options, with the defaults filled in."""
    stack = {"stack": True, "remat": recipe.remat, "unroll": recipe.unroll}
    compiler = {"topology": options.topology, "libtpu": libtpu_version()}
    return {
        "model": recipe.model,
        "program": options.program,
        "recipe": options.recipe or None,
        "batch_size": recipe.batch_size,
        "image_size": recipe.image_size,
        "num_classes": len(parts.images.train.class_names),
        "precision": recipe.precision,
        **({"microbatches": recipe.microbatches} if options.program == "train" else {}),
        **(stack if recipe.stack else {}),
        "gather_dtype": options.gather_dtype,
        "reduce_dtype": options.reduce_dtype,
        "mesh": format_mesh(mesh.shape),
        **(compiler if options.topology else {}),
    }
