"""In which dtypes a step computes, and a step in parts."""

import functools as ft
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfx
from nfx._tree import leaves_by_path
from nfx.aot import collectives, compile_step
from nfx.augment import Augmentation
from nfx.data import Batch
from nfx.nn._lowering import CONVOLUTIONS
from nfx.optim import nfnet_sgd
from nfx.sharding import make_mesh, place_batch
from nfx.train import (
    abstract_state,
    apply_precisely,
    create_state,
    make_evaluation_step,
    make_train_step,
    plan_step,
    Precision,
    PRECISIONS,
    Preprocessing,
    StepOptions,
)


OPTIMIZER = nfnet_sgd(0.1, clipping=0.02, ema=0.9)
PLAIN = Preprocessing((0.5,), (0.25,), Augmentation())
EVERYTHING = Preprocessing(
    (0.5,), (0.25,), Augmentation(mixup_alpha=0.2, cutmix=True, randaugment_layers=1)
)


def build(name="nfnet_nano", **overrides):
    row = {"depths": (2,), "widths": (32,), "strides": (1,), "group_width": 16, **overrides}
    return nfx.create_model(
        name, num_classes=8, key=jax.random.key(0), stochastic_depth_rate=0.5, drop_rate=0.2, **row
    )


def mesh_of(**shape):
    return make_mesh(shape, jax.devices()[: int(np.prod(list(shape.values())))])


def batch_of(count, size=12):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    return Batch(images, rng.integers(0, 8, count).astype(np.int32))


# Dtypes.


def as_trained(model, key):
    """Branches that are open, and gains and biases that are not all the same."""
    leaves, structure = jax.tree.flatten(model)
    keys = jax.random.split(key, len(leaves))
    move = lambda leaf, key: leaf + (leaf.ndim < 2) * 0.3 * jax.random.normal(key, leaf.shape)
    return jax.tree.unflatten(structure, list(map(move, leaves, keys)))


def off_centre(model, means):
    """The same network: standardization takes the means out that kernels have here."""
    shift = lambda leaf: leaf + means * jnp.std(leaf) if leaf.ndim == 4 else leaf
    return jax.tree.map(shift, model)


@ft.partial(jax.jit, static_argnums=0)
def logits_and_gradients(precision, model, images, labels):
    def loss(model):
        logits, _ = apply_precisely(precision, model, None, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), logits

    (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(model)
    return {"logits": logits, "gradients": gradients}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_statistics_in_float32_keep_errors_at_those_of_activations(seed):
    """Relative errors in units of bfloat16's: below 1 of logits and 3 of gradients when mixed.

    Kernels that are 3 standard deviations off zero, as those without weight decay drift to, lose
    bits of what is left without the mean, if they are rounded before it is taken out.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    model = nfx.create_model(
        "nfnet_nano", num_classes=10, widths=(64, 64), depths=(1, 2), strides=(1, 2),
        group_width=32, key=keys[0],
    )  # fmt: skip
    model = as_trained(model, keys[2])
    images, labels = jax.random.normal(keys[1], (16, 16, 16, 3)), jnp.arange(16) % 10

    def errors(name, means):
        found, exact = (
            logits_and_gradients(PRECISIONS[n], off_centre(model, means), images, labels)
            for n in (name, "float32")
        )
        unit = float(jnp.finfo(jnp.bfloat16).eps)
        distance = jax.tree.map(jnp.subtract, found, exact)
        return {
            part: float(optax.tree.norm(distance[part]) / optax.tree.norm(exact[part]) / unit)
            for part in exact
        }

    for means in (0.0, 3.0):
        mixed = errors("mixed", means)
        assert mixed["logits"] < 1
        assert mixed["gradients"] < 3
    official = errors("official_bf16", 3.0)
    assert official["logits"] > 1
    assert official["gradients"] > 3


def equations(jaxpr):
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    yield from equations(inner)


def dtypes_of(traced, *names):
    convolutions = {primitive.name for primitive in CONVOLUTIONS} | {"conv_general_dilated"}
    wanted = convolutions if names == ("convolution",) else set(names)
    return {
        equation.outvars[0].aval.dtype.name
        for equation in equations(traced.jaxpr)
        if equation.primitive.name in wanted
        for variable in equation.outvars[:1]
        if jnp.issubdtype(variable.aval.dtype, jnp.floating)
    }


@pytest.mark.parametrize("shape", [{"data": 1}, {"data": 2, "fsdp": 2, "model": 2}])
@pytest.mark.parametrize("name", PRECISIONS)
def test_programs_have_the_dtypes_of_their_policy(name, shape):
    precision, mesh = PRECISIONS[name], mesh_of(**shape)
    state = abstract_state(build, OPTIMIZER, mesh)
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batch_of(16)))
    step = make_train_step(OPTIMIZER, PLAIN, mesh, options=StepOptions(precision=precision))
    traced = step.trace(state, batch, jax.random.key(0))
    assert dtypes_of(traced, "convolution") == {precision.compute}
    assert dtypes_of(traced, "rsqrt") == {precision.parameters}  # of standardization alone
    assert dtypes_of(traced, "sqrt") == {"float32"}  # norms, of clipping
    assert dtypes_of(traced, "reduce_scatter") <= {"float32"}  # gradients
    new_state, metrics = traced.out_info
    assert {leaf.dtype.name for leaf in jax.tree.leaves(new_state)} == {"float32", "int32"}
    assert metrics["loss"].dtype == jnp.float32
    evaluate = make_evaluation_step(PLAIN, mesh).trace(state.model, None, batch)
    assert dtypes_of(evaluate, "convolution", "rsqrt") == {"float32"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PRECISIONS)
def test_batch_statistics_are_in_float32_whatever_the_policy(name):
    mesh, precision = mesh_of(data=4), PRECISIONS[name]
    build_normalized = lambda: nfx.create_model(
        "se_resnext_micro", num_classes=8, key=jax.random.key(0)
    )
    state = abstract_state(build_normalized, OPTIMIZER, mesh)
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batch_of(8)))
    step = make_train_step(OPTIMIZER, PLAIN, mesh, options=StepOptions(precision=precision))
    traced = step.trace(state, batch, jax.random.key(0))
    assert dtypes_of(traced, "convolution") == {precision.compute}
    assert dtypes_of(traced, "rsqrt") == {"float32"}
    new_state, _ = traced.out_info
    assert [x.dtype for x in jax.tree.leaves(new_state)] == [
        x.dtype for x in jax.tree.leaves(state)
    ]
    evaluate = make_evaluation_step(PLAIN, mesh, precision=precision)
    traced = evaluate.trace(state.model, state.statistics, batch)
    assert dtypes_of(traced, "convolution") == {precision.compute}
    assert traced.out_info.loss.dtype == jnp.float32


def test_policies_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="gain nothing from compute='float32'"):
        Precision(parameters="bfloat16")


# Microbatches.


def gradients_of(gradients, model, step):
    return {f"gradient of {path}": leaf for path, leaf in leaves_by_path(gradients).items()}


@ft.cache
def one_step(microbatches, **shape):
    """Metrics, all gradients, and the state after it, by name."""
    mesh = mesh_of(**shape)
    state = create_state(build, OPTIMIZER, mesh)
    step = make_train_step(
        OPTIMIZER, EVERYTHING, mesh, gradients_of, options=StepOptions(microbatches=microbatches)
    )
    state, metrics = step(state, place_batch(batch_of(32), mesh), jax.random.key(1))
    return {**jax.device_get(metrics), **leaves_by_path(jax.device_get(state))}


@pytest.mark.parametrize(
    ("microbatches", "shape"),
    [
        (4, {"fsdp": 2}),
        pytest.param(4, {"data": 4}, marks=pytest.mark.long),
        pytest.param(2, {"data": 4}, marks=pytest.mark.long),
        pytest.param(2, {"fsdp": 2}, marks=pytest.mark.long),
        pytest.param(2, {"data": 2, "model": 2}, marks=pytest.mark.slow),
    ],
)
def test_microbatches_change_nothing_but_rounding(microbatches, shape):
    """RandAugment, MixUp, CutMix, dropout and stochastic depth included."""
    found, expected = one_step(microbatches, **shape), one_step(1, data=4)
    assert found.keys() == expected.keys()
    error = lambda path, value: np.abs(np.asarray(found[path], np.float64) - value)
    for path, value in expected.items():
        # Single gradients are what is left of sums that cancel.
        bound = 1e-6 if path.startswith("model/") else 4e-6
        largest = np.max(np.abs(value), initial=1e-30)
        assert np.max(error(path, value), initial=0) <= bound * largest, path
    gradients = {path: value for path, value in expected.items() if path.startswith("gradient of")}
    distance = np.sqrt(sum(np.sum(error(*item) ** 2) for item in gradients.items()))
    assert distance < 1e-6 * expected["gradient_norm"]


@ft.cache
def compiled(microbatches):
    mesh = mesh_of(data=2, fsdp=2)
    state = abstract_state(build, OPTIMIZER, mesh)
    step = make_train_step(OPTIMIZER, PLAIN, mesh, options=StepOptions(microbatches=microbatches))
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batch_of(64, size=32)))
    program = compile_step(step, state, batch, jax.random.key(0))
    return program.report, program.compiled.as_text()


@pytest.mark.slow
def test_microbatches_take_less_memory_and_as_much_computation():
    (whole, _), (parts, _) = compiled(1), compiled(4)
    assert parts.memory.temporaries < 0.4 * whole.memory.temporaries
    assert parts.memory.arguments == whole.memory.arguments
    assert parts.graph_flops == whole.graph_flops


def test_gradients_of_microbatches_are_added_up_over_devices_once():
    (_, whole), (_, parts) = compiled(1), compiled(4)
    assert collectives(parts) == collectives(whole)
    computations = dict(re.findall(r"^(?:ENTRY )?(%[\w.-]+) .*?\{\n(.*?)^\}", parts, re.M | re.S))
    in_loops = set(re.findall(r"body=(%[\w.-]+)", parts))
    assert any("dot" in computations[name] or "custom" in computations[name] for name in in_loops)
    while (
        called := {
            name
            for caller in in_loops
            for name in re.findall(
                r"(?:calls|to_apply|body|condition)=(%[\w.-]+)", computations[caller]
            )
        }
        - in_loops
    ):
        in_loops |= called
    assert not collectives("\n".join(computations[name] for name in in_loops))


def test_a_plan_of_microbatches_sends_activations_in_parts():
    mesh = mesh_of(data=2, model=2)
    state = abstract_state(lambda: build(group_width=8), OPTIMIZER)
    sent = lambda **how: {
        each.purpose: (each.number, each.bytes)
        for each in plan_step(state, mesh, (12, 12, 3), 16, StepOptions(**how)).collectives
    }
    whole, parts, half = sent(), sent(microbatches=2), sent(precision=PRECISIONS["mixed"])
    gradients = "gradients, the rest of the batch's axes"
    assert parts[gradients] == whole[gradients] == half[gradients]
    number, size = whole["activations of split blocks"]
    assert parts["activations of split blocks"] == (2 * number, size)
    assert half["activations of split blocks"] == (number, size // 2)
    statistics = "weight standardization of split blocks"
    assert parts[statistics] == tuple(2 * x for x in whole[statistics])
    assert half[statistics] == whole[statistics]
    official = sent(precision=PRECISIONS["official_bf16"])
    assert 2 * official[statistics][1] == whole[statistics][1]


def test_frozen_batch_norm_is_planned_in_microbatches():
    model = lambda: nfx.create_model("se_resnext_micro", key=jax.random.key(0))
    state, mesh = abstract_state(model, OPTIMIZER), mesh_of(data=2)
    plan = lambda **how: plan_step(state, mesh, (12, 12, 3), 16, StepOptions(**how))
    with pytest.raises(ValueError, match="must be 1 for a batch-normalized model"):
        plan(microbatches=2)
    assert plan(microbatches=2, frozen_statistics=True).collectives == plan().collectives


@pytest.mark.parametrize(
    ("name", "preprocessing", "microbatches", "message"),
    [
        ("nfnet_nano", PLAIN, 3, "microbatches=3 must divide the 4 images"),
        ("nfnet_nano", PLAIN, 0, "microbatches=0 must divide"),
        ("nfnet_nano", EVERYTHING, 4, "4 of a batch in 4 microbatches"),
        ("se_resnext_micro", PLAIN, 2, "must be 1 for a batch-normalized model"),
    ],
)
def test_microbatches_that_cannot_be_are_refused(name, preprocessing, microbatches, message):
    mesh = mesh_of(data=2)
    state = abstract_state(lambda: nfx.create_model(name, key=jax.random.key(0)), OPTIMIZER, mesh)
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batch_of(8)))
    step = make_train_step(
        OPTIMIZER, preprocessing, mesh, options=StepOptions(microbatches=microbatches)
    )
    with pytest.raises(ValueError, match=message):
        step.trace(state, batch, jax.random.key(0))
