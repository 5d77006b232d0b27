"""The batch-normalized baselines: against timm, Equinox, and the claims made about them."""

import functools as ft
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfx
from nfx import nn
from nfx._tree import leaves_by_path, map_with_path
from nfx.augment import Augmentation
from nfx.data import Batch
from nfx.models import apply_batch, initial_statistics
from nfx.nn import BatchStatistics
from nfx.optim import nfnet_sgd, train_only
from nfx.sharding import make_mesh, place_batch
from nfx.train import (
    create_state,
    make_evaluation_step,
    make_train_step,
    Preprocessing,
    StepOptions,
)
from tests.golden import rules
from tests.reference import BATCH_NORM_CASES, create_abstract, load_golden


@pytest.mark.parametrize("case", BATCH_NORM_CASES)
def test_agrees_with_timm(case):
    """Logits, loss, gradient norms and running means in training; logits in inference."""
    golden = load_golden(case)
    model, names = timm_model(golden, *BATCH_NORM_CASES[case])
    images = jnp.asarray(rules.make_input(4, 64, 64))
    (loss, (logits, statistics)), gradients = train(model, images, rules.make_labels(4, 10))
    initial, _ = jax.jit(lambda model: apply_batch(model, initial_statistics(model), images))(model)

    scale = np.abs(golden["logits_initial"]).max()
    np.testing.assert_allclose(initial, golden["logits_initial"], rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    norms = {names[path]: np.linalg.norm(leaf) for path, leaf in leaves_by_path(gradients).items()}
    for name, norm in zip(golden["param_names"], golden["grad_l2"], strict=True):
        np.testing.assert_allclose(norms[name], norm, rtol=1e-3, err_msg=name)
    is_statistics = lambda node: isinstance(node, BatchStatistics)
    layers = jax.tree.leaves(statistics, is_leaf=is_statistics)
    means = sorted(np.linalg.norm(layer.mean) for layer in layers)
    np.testing.assert_allclose(means, np.sort(golden["running_mean_l2"]), rtol=1e-4)


@jax.jit
@ft.partial(jax.value_and_grad, has_aux=True)
def train(model, images, labels):
    logits, statistics = apply_batch(model, initial_statistics(model), images, batch_axes=())
    targets = optax.smooth_labels(jax.nn.one_hot(labels, 10), rules.LABEL_SMOOTHING)
    return jnp.mean(optax.softmax_cross_entropy(logits, targets)), (logits, statistics)


def timm_model(golden, name, overrides):
    """A model with the parameters of a golden file, and timm's name of each leaf."""
    # As PyTorch pads.
    model = create_abstract(name, num_classes=10, padding="symmetric", **overrides)
    names = {path: timm_name(path, deep=len(model.stem) > 1) for path in leaves_by_path(model)}
    shapes = dict(zip(golden["param_names"], map(json.loads, golden["param_shapes"]), strict=True))
    assert sorted(names.values()) == sorted(shapes)

    def parameter(path, leaf):
        array = timm_parameter(names[path], shapes[names[path]])
        if len(leaf.shape) == 4:
            return jnp.asarray(array.transpose(2, 3, 1, 0))
        return jnp.asarray(array.reshape(array.shape[:2]).T if len(leaf.shape) == 2 else array)

    return map_with_path(parameter, model), names


def timm_parameter(name, shape):
    """The rule of `golden/make_timm.py`."""
    if len(shape) > 1:
        return rules.make_array(name, shape, 1 / np.sqrt(np.prod(shape[1:])), 0.0)
    return rules.make_array(name, shape, 0.1, 1.0 if name.endswith("weight") else 0.0)


def timm_name(path, *, deep):
    """What a leaf is called in timm's `ResNet`; `deep` is that of ResNet-D."""
    module, _, parameter = path.rpartition("/")
    match module.split("/"):
        case ["stem", "2", "norm"] | ["stem", "0", "norm"] if not deep or "2" in module:
            name = "bn1"
        case ["stem", index, kind]:
            name = f"conv1.{3 * int(index) + (kind == 'norm')}" if deep else "conv1"
        case ["stages", stage, "blocks", block, "conv_shortcut", kind]:
            index = deep + (kind == "norm")
            name = f"layer{int(stage) + 1}.{block}.downsample.{index}"
        case ["stages", stage, "blocks", block, layer, part]:
            number = int(layer[-1]) + 1 if layer != "attention" else int(part[-1]) + 1
            kind = {"conv": "conv", "norm": "bn"}.get(part, "se.fc")
            name = f"layer{int(stage) + 1}.{block}.{kind}{number}"
        case _:
            name = "fc"
    return f"{name}.{'weight' if parameter == 'gain' else parameter}"


def test_the_layer_agrees_with_equinox(key):
    x = jax.random.normal(key, (6, 5, 4, 3)) * 3 + 1
    layer = nn.BatchNorm(3, gain=0.7, decay=0.9)
    theirs, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
    theirs = eqx.tree_at(lambda t: t.weight, theirs, layer.gain)
    run = jax.vmap(theirs, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    expected, _ = run(jnp.moveaxis(x, -1, 1), state)
    actual, statistics = layer(x, layer.initial_statistics(), batch_axes=())
    np.testing.assert_allclose(jnp.moveaxis(actual, -1, 1), expected, atol=1e-5)
    np.testing.assert_allclose(statistics.mean, 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(statistics.variance, 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-5)


SMALL = dict(
    depths=(1, 1), widths=(16, 32), strides=(1, 2), groups=(1, 2), num_classes=10, in_channels=1
)  # fmt: skip


def test_examples_see_each_other_in_training_only(key):
    """The dependence that normalizer-free networks do away with."""
    model = jax.jit(lambda: nfx.create_model("se_resnext_micro", key=key, **SMALL))()
    model = open_branches(model)
    images = jax.random.normal(key, (4, 14, 14, 1))
    others = images.at[1:].set(3 * images[1:] + 1)
    statistics = initial_statistics(model)
    run = jax.jit(apply_batch, static_argnames="batch_axes")
    for batch_axes, depends in ((None, False), ((), True)):
        first, second = (
            run(model, statistics, batch, batch_axes=batch_axes)[0][0] for batch in (images, others)
        )
        assert np.allclose(first, second, atol=1e-5) != depends


def batch_of_eight():
    rng = np.random.default_rng(0)
    return Batch(rng.integers(0, 256, (8, 14, 14, 1), np.uint8), np.arange(8, dtype=np.int32))


@pytest.mark.parametrize("microbatches", [1, 2])
def test_frozen_statistics_stay_and_are_what_a_step_normalizes_by(key, microbatches):
    build = lambda: nfx.create_model("se_resnext_micro", key=key, **SMALL)
    preprocessing = Preprocessing((0.5,), (0.25,), Augmentation(flip=False), label_smoothing=0.0)
    optimizer = train_only(optax.sgd(0.1), ("head/weight", "head/bias"))
    mesh = make_mesh({"data": 4}, jax.devices()[:4])
    state, batch = create_state(build, optimizer, mesh), place_batch(batch_of_eight(), mesh)
    before = jax.device_get(state)
    evaluate = make_evaluation_step(preprocessing, mesh)
    expected = evaluate(state.model, state.statistics, batch).loss / 8
    step = make_train_step(
        optimizer,
        preprocessing,
        mesh,
        options=StepOptions(microbatches=microbatches, frozen_statistics=True),
    )
    state, metrics = step(state, batch, key)
    jax.tree.map(np.testing.assert_array_equal, state.statistics, before.statistics)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert not np.array_equal(state.model.head.weight, before.model.head.weight)


def test_the_step_takes_the_statistics_of_the_whole_batch_on_any_mesh(key):
    batch = batch_of_eight()
    build = lambda: nfx.create_model("se_resnext_micro", key=key, **SMALL)
    preprocessing = Preprocessing((0.5,), (0.25,), Augmentation())
    optimizer = nfnet_sgd(0.1, clipping=None)
    states = []
    for devices in (1, 4):
        mesh = make_mesh({"data": devices}, jax.devices()[:devices])
        state = create_state(build, optimizer, mesh)
        step = make_train_step(optimizer, preprocessing, mesh)
        for _ in range(2):
            state, _ = step(state, place_batch(batch, mesh), key)
        states.append(jax.device_get(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *states)
    assert not np.allclose(states[0].statistics.stem[0].variance, 1, atol=1e-3)


def open_branches(model):
    """Residual branches start closed: their last gains are zero."""
    return jax.tree.map(lambda leaf: leaf + 0.5 if leaf.ndim == 1 else leaf, model)


def test_what_a_batch_normalized_network_needs(key):
    model = create_abstract("se_resnext_micro", **SMALL)
    images = jax.ShapeDtypeStruct((2, 14, 14, 1), jnp.float32)
    with pytest.raises(ValueError, match="has a state: start with"):
        jax.eval_shape(lambda m, x: apply_batch(m, None, x), model, images)
    one = jax.ShapeDtypeStruct((14, 14, 1), jnp.float32)
    statistics = jax.eval_shape(initial_statistics, model)
    with pytest.raises(
        ValueError, match=r"images of shape \(n, height, width, 1\); got shape \(14, 14, 1\)"
    ):
        jax.eval_shape(lambda m, s, x: m(x, s), model, statistics, one)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(depths=(1, 2)), "one entry a stage each"),
        (dict(stem_widths=(8, 8)), "one entry a convolution each"),
        (dict(activation="gleu"), "activation='gleu' must be one of"),
        (dict(strides=(1, 3, 2, 2)), "1 or 2"),
        (dict(depths=(1, 0, 1, 1)), "must be positive"),
        (dict(drop_rate=1.0), r"drop_rate=1.0 and .* must be in \[0, 1\)"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        create_abstract("resnet50", **overrides)


def test_dropping_is_by_example(key):
    model = jax.jit(lambda: nfx.create_model(
        "se_resnext_micro", key=key, drop_rate=0.5, stochastic_depth_rate=0.5, **SMALL
    ))()  # fmt: skip
    model = open_branches(model)
    images = jnp.broadcast_to(jax.random.normal(key, (14, 14, 1)), (8, 14, 14, 1))
    run = jax.jit(apply_batch)
    statistics = initial_statistics(model)
    logits, _ = run(model, statistics, images, jax.random.split(key, 8))
    same, _ = run(model, statistics, images)
    assert len(np.unique(np.asarray(logits)[:, 0])) > 3
    assert len(np.unique(np.asarray(same)[:, 0].round(4))) == 1


def test_features_are_as_declared():
    model = create_abstract("se_resnext50_d")
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    statistics = jax.eval_shape(initial_statistics, model)
    features, _ = jax.eval_shape(lambda m, s, x: m.features(x, s), model, statistics, images)
    maps = (features.stem, *features.stages, features.final)
    for info, found in zip(model.feature_info, maps, strict=True):
        assert found.shape == (2, 64 // info.stride, 96 // info.stride, info.channels)
