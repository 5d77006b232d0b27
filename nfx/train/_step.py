"""One step of training, and one of evaluation: pure functions, compiled over a mesh.

The whole forward and backward pass runs inside one fully manual `shard_map`; outside it, on
the update, the partitioner sees elementwise operations and reductions only.
"""

import functools as ft
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt8

from nfx.augment import normalize
from nfx.data import Batch, PADDING_LABEL
from nfx.models import initial_statistics
from nfx.optim import ema_parameters
from nfx.sharding import (
    batch_axes,
    batch_spec,
    Communication,
    constrain,
    FULLY_SHARDED,
    replicated,
    Rules,
)
from nfx.train._gradients import make_differentiate
from nfx.train._losses import one_hot, smoothed_cross_entropy
from nfx.train._options import StepOptions
from nfx.train._placement import shard_model, state_shardings
from nfx.train._precision import apply_precisely, Precision
from nfx.train._preprocessing import Preprocessing


class TrainState(eqx.Module):
    """Everything a checkpoint holds.

    Attributes:
        step: Steps done.
        model: The model.
        opt_state: State of the optimizer, which holds the parameters' average.
        statistics: State of the model: a batch-normalized one's running averages, else None.
    """

    step: Int[Array, ""]
    model: PyTree
    opt_state: optax.OptState
    statistics: PyTree = None

    @property
    def ema(self) -> PyTree:
        """The model with averaged parameters."""
        return ema_parameters(self.opt_state)


class EvaluationCounts(NamedTuple):
    """Sums over the examples of a batch that are not padding.

    Attributes:
        correct: How many have their label scored highest.
        loss: Sum of their cross-entropies, without smoothing.
        examples: How many there are.
    """

    correct: Float[Array, ""]
    loss: Float[Array, ""]
    examples: Float[Array, ""]


Metrics = dict[str, Float[Array, "..."]]


# Reads what to log off a step: (gradients, model, step) -> scalars and vectors by name.
StepMetrics = Callable[[PyTree, PyTree, Int[Array, ""]], Metrics]


def create_state(
    build_model: Callable[[], PyTree],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    rules: Rules = FULLY_SHARDED,
) -> TrainState:
    """Builds the first state on the devices of `mesh`, in one compiled program.

    What is split is never whole on a device.

    Args:
        build_model: Creates the model.
        optimizer: What will update it.
        mesh: Where the state will live.
        rules: How it is split: see `state_shardings`.
    """
    return _built_on(mesh, rules, ft.partial(_build_state, build_model, optimizer))


def abstract_state(
    build_model: Callable[[], PyTree],
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None = None,
    *,
    rules: Rules = FULLY_SHARDED,
) -> TrainState:
    """As `create_state`, with shapes, dtypes and, given a mesh, shardings in place of arrays."""
    shapes = jax.eval_shape(ft.partial(_build_state, build_model, optimizer))
    if mesh is None:
        return shapes
    place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(place, shapes, state_shardings(shapes, mesh, rules, model=shapes.model))


def start_state(
    build_model: Callable[..., PyTree],
    arguments: tuple[PyTree, ...],
    statistics: PyTree,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    rules: Rules = FULLY_SHARDED,
) -> TrainState:
    """As `create_state`, of a model that is made of arrays that are there.

    Args:
        build_model: Makes the model of the arguments, in one compiled program.
        arguments: What to make it of, on the devices of `mesh`.
        statistics: The model's state: see `TrainState`.
        optimizer: What will update it.
        mesh: Where the state will live.
        rules: How it is split: see `state_shardings`.
    """

    def build(arguments: tuple[PyTree, ...], statistics: PyTree) -> TrainState:
        state = _build_state(lambda: build_model(*arguments), optimizer)
        return TrainState(state.step, state.model, state.opt_state, statistics)

    return _built_on(mesh, rules, build, arguments, statistics)


def _built_on(
    mesh: Mesh, rules: Rules, build: Callable[..., TrainState], *arguments: PyTree
) -> TrainState:
    like = jax.eval_shape(build, *arguments)
    shardings = state_shardings(like, mesh, rules, model=like.model)
    return jax.jit(build, out_shardings=shardings)(*arguments)


def _build_state(
    build_model: Callable[[], PyTree], optimizer: optax.GradientTransformation
) -> TrainState:
    model = build_model()
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, model, optimizer.init(model), initial_statistics(model))


def make_train_step(
    optimizer: optax.GradientTransformation,
    preprocessing: Preprocessing,
    mesh: Mesh,
    observe: StepMetrics = lambda gradients, model, step: {},
    *,
    options: StepOptions = StepOptions(),
) -> jax.stages.Wrapped:
    """Makes the jitted step `(state, batch, key) -> (state, metrics)`.

    The state is donated. The key is that of the run: each example's randomness follows from
    it, `state.step` and the example's index in the global batch, on any mesh.

    Args:
        optimizer: An optax chain. It may take the gradient elsewhere, on the same examples with
            the same randomness: see `nfx.optim.sharpness_aware`.
        preprocessing: Normalization, augmentation and smoothing.
        mesh: The devices; the batch is split over "data" and "fsdp", and the state as
            `state_shardings` says.
        observe: What to log beside `loss`, `gradient_norm` and `update_norm`.
        options: How it is computed.

    Raises:
        ValueError: On tracing, if the microbatches do not divide a device's examples, or pairs to
            mix, or the step normalizes by the statistics of batches and there is more than one.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    differentiate = make_differentiate(preprocessing, mesh, options)

    def train_step(
        state: TrainState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[TrainState, Metrics]:
        differentiate_at = lambda model: differentiate(
            model, state.statistics, batch, key, state.step
        )
        (loss, statistics), gradients = differentiate_at(state.model)
        updates, opt_state = optimizer.update(
            gradients,
            state.opt_state,
            state.model,
            grad_fn=lambda model, _: differentiate_at(model)[1],
        )
        metrics = {
            "loss": loss,
            "gradient_norm": optax.tree.norm(gradients),
            "update_norm": optax.tree.norm(updates),  # an optimizer may take other gradients
            **observe(gradients, state.model, state.step),
        }
        model = optax.apply_updates(state.model, updates)
        state = TrainState(state.step + 1, model, opt_state, statistics)
        state = constrain(state, state_shardings(state, mesh, options.rules, model=model))
        return state, constrain(metrics, replicated(mesh))

    whole, split = replicated(mesh), NamedSharding(mesh, batch_spec(mesh))
    return jax.jit(train_step, in_shardings=(None, split, whole), donate_argnums=0)


def infer(
    model: PyTree,
    statistics: PyTree,
    images: UInt8[Array, "n h w c"] | Float[Array, "n h w c"],
    preprocessing: Preprocessing,
    precision: Precision = Precision(),
) -> Float[Array, "n classes"]:
    """Computes the logits of a batch in inference, in float32.

    Args:
        model: The model.
        statistics: Its state: see `TrainState`.
        images: Pixels as bytes, or as float32 on their scale.
        preprocessing: Their normalization; nothing is augmented.
        precision: In which dtypes the network computes.
    """
    normalized = normalize(images, preprocessing.mean, preprocessing.std)
    return apply_precisely(precision, model, statistics, normalized)[0]


def make_evaluation_step(
    preprocessing: Preprocessing,
    mesh: Mesh,
    *,
    rules: Rules = FULLY_SHARDED,
    communication: Communication = Communication(),
    precision: Precision = Precision(),
) -> jax.stages.Wrapped:
    """Makes the jitted `(model, statistics, batch) -> counts`.

    Summed over batches, the counts are exact. The arguments are those of `StepOptions`; networks
    that were trained in bfloat16 are evaluated in float32, as the official code does.
    """

    def evaluation_step(model: PyTree, statistics: PyTree, batch: Batch) -> EvaluationCounts:
        logits = infer(model, statistics, batch.images, preprocessing, precision)
        real = batch.labels != PADDING_LABEL
        targets = one_hot(batch.labels, logits.shape[-1])
        losses = jnp.where(real, smoothed_cross_entropy(logits, targets, 0.0), 0)
        correct = real & (jnp.argmax(logits, axis=-1) == batch.labels)
        sums = [jnp.sum(x, dtype=jnp.float32) for x in (correct, losses, real)]
        return EvaluationCounts(*jax.lax.psum(sums, batch_axes(mesh)))

    sharded = shard_model(
        evaluation_step,
        mesh,
        rules=rules,
        communication=communication,
        in_specs=(P(), batch_spec(mesh)),
        out_specs=P(),
    )
    whole, split = replicated(mesh), NamedSharding(mesh, batch_spec(mesh))
    return jax.jit(sharded, in_shardings=(None, whole, split), out_shardings=whole)
