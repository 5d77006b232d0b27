"""From a recipe to the parts of a training run."""

import functools as ft
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from nfx import graph
from nfx.data import Batch, Images, Source, Splits
from nfx.models import (
    create_model,
    IMAGENET_MEAN,
    IMAGENET_STD,
    is_batch_normalized,
    model_variant,
)
from nfx.optim import (
    clip_telemetry,
    nfnet_sgd,
    OFFICIAL_GROUPS,
    scaled_learning_rate,
    sharpness_aware,
    warmup_cosine,
)
from nfx.recipes._images import recipe_images
from nfx.recipes._recipe import Recipe
from nfx.sharding import AnyMesh, batch_shards, batch_spec, check_batch_divides
from nfx.train import (
    check_microbatches,
    make_train_step,
    Metrics,
    PRECISIONS,
    Preprocessing,
    StepMetrics,
    StepOptions,
)


# Mean and standard deviation of the pixels, by number of channels: of Fashion-MNIST and ImageNet.
_PIXELS = {1: ((0.286,), (0.353,)), 3: (IMAGENET_MEAN, IMAGENET_STD)}

# What stays trainable, by `freeze`; () is everything.
_TRAINED = {"none": (), "backbone": ("head/weight", "head/bias")}


class Parts(NamedTuple):
    """What a recipe stands for.

    Attributes:
        images: What to train on and what to evaluate on.
        build_model: Creates the model, its blocks stacked if the recipe says so.
        optimizer: AGC, SGD and the parameters' average, as one chain.
        preprocessing: Normalization and augmentation.
        observe: Learning rate and what clipping does, to log.
        key: The run's key.
        options: How the step is computed.
    """

    images: Splits[Images]
    build_model: Callable[[], PyTree]
    optimizer: optax.GradientTransformation
    preprocessing: Preprocessing
    observe: StepMetrics
    key: PRNGKeyArray
    options: StepOptions

    def train_step(self, mesh: Mesh) -> jax.stages.Wrapped:
        """Makes the step of the run: see `nfx.train.make_train_step`."""
        return make_train_step(
            self.optimizer, self.preprocessing, mesh, self.observe, options=self.options
        )


def build_parts(recipe: Recipe, sources: Splits[Source] | None = None) -> Parts:
    """Builds everything a recipe describes, without touching its images.

    Args:
        recipe: The recipe.
        sources: Images to take instead of the recipe's.

    Raises:
        ValueError: If the model is unknown, the data is missing, or a number is out of range.
    """
    model_variant(recipe.model)  # an unknown name is the cheapest thing to find
    images = recipe_images(recipe, sources)
    mean, std = _PIXELS[recipe.channels]
    schedule = warmup_cosine(
        scaled_learning_rate(recipe.learning_rate, recipe.batch_size),
        steps=recipe.steps,
        warmup_steps=min(recipe.warmup_steps, recipe.steps // 2),
        end=recipe.final_learning_rate,
    )
    init_key, run_key = jax.random.split(jax.random.key(recipe.seed))

    return Parts(
        images=images,
        build_model=ft.partial(_build_model, recipe, len(images.train.class_names), init_key),
        optimizer=_optimizer(recipe, schedule),
        preprocessing=Preprocessing(mean, std, recipe.augmentation, recipe.label_smoothing),
        observe=_observer(recipe, schedule),
        key=run_key,
        options=StepOptions(
            precision=PRECISIONS[recipe.precision],
            microbatches=recipe.microbatches,
            frozen_statistics=recipe.freeze != "none",
        ),
    )


def _build_model(recipe: Recipe, num_classes: int, key: PRNGKeyArray) -> PyTree:
    model = create_model(
        recipe.model,
        num_classes=num_classes,
        in_channels=recipe.channels,
        stochastic_depth_rate=recipe.stochastic_depth,
        drop_rate=recipe.dropout,
        key=key,
    )
    if recipe.stack:
        model = graph.stack_blocks(model, remat=recipe.remat, unroll=recipe.unroll)
    return model


def abstract_batch(images: Images, batch_size: int, mesh: Mesh) -> Batch:
    """Returns the shapes, dtypes and shardings of a global batch of images."""
    split = NamedSharding(mesh, batch_spec(mesh))
    shape = (batch_size, *images.image_shape)
    return Batch(
        jax.ShapeDtypeStruct(shape, images.transform.dtype, sharding=split),
        jax.ShapeDtypeStruct(shape[:1], np.int32, sharding=split),
    )


def check_mesh(recipe: Recipe, mesh: AnyMesh) -> None:
    """Raises a `ValueError` if the recipe's step cannot be split over the mesh."""
    check_batch_divides(mesh, recipe.batch_size)
    images = recipe.batch_size // batch_shards(mesh)
    check_microbatches(
        recipe.microbatches,
        images,
        mixes=recipe.augmentation.mixes,
        batch_normalized=is_batch_normalized(recipe.model) and recipe.freeze == "none",
    )


def _optimizer(recipe: Recipe, schedule: optax.Schedule) -> optax.GradientTransformation:
    optimizer = nfnet_sgd(
        schedule,
        clipping=recipe.clipping,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        ema=recipe.ema,
        groups=OFFICIAL_GROUPS._replace(trained=_TRAINED[recipe.freeze]),
    )
    if recipe.sharpness_radius:
        optimizer = sharpness_aware(optimizer, recipe.sharpness_radius)
    return optimizer


def _observer(recipe: Recipe, schedule: optax.Schedule) -> StepMetrics:
    def observe(gradients: PyTree, model: PyTree, step: Int[Array, ""]) -> Metrics:
        scalars = {"learning_rate": jnp.asarray(schedule(step))}
        if recipe.clipping is None or recipe.sharpness_radius:
            return scalars  # what is clipped then is another gradient
        telemetry = clip_telemetry(
            gradients, model, clipping=recipe.clipping, exclude=OFFICIAL_GROUPS.unclipped
        )
        return {
            **scalars,
            "clipped_share": telemetry.share,
            "clipped_share_of_leaf": telemetry.share_of_leaf,
            "largest_clip_ratio": jnp.max(telemetry.largest_ratio, initial=0),
            "nonfinite_units": jnp.sum(telemetry.nonfinite),
        }

    return observe
