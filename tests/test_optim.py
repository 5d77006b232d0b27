"""Schedules, averages and the chain, against the reference and in closed form."""

import functools as ft
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfx import optim
from nfx.analysis import signal_statistics, tap_signal
from nfx.train import smoothed_cross_entropy
from nfx.weights import to_official
from tests.golden import rules
from tests.reference import load_golden, meta, official_model, tiny_overrides


NAMES = ("warmup_cosine", "cosine", "warmup_exp")


def test_schedules_are_those_of_the_golden_file():
    golden = load_golden("schedules")
    kwargs = {name: json.loads(str(golden[f"{name}_kw"])) for name in NAMES}
    before_end = golden["itr"] <= 100  # the official cosine rises again after its end
    for name in ("warmup_cosine", "cosine"):
        k = kwargs[name]
        schedule = optim.warmup_cosine(
            k["max_val"], steps=k["num_steps"], warmup_steps=k.get("warmup_steps", 0.0),
            start=k.get("start_val", 0.0), end=k["min_val"],
        )  # fmt: skip
        actual = np.asarray([schedule(int(step)) for step in golden["itr"]])
        np.testing.assert_allclose(actual[before_end], golden[name][before_end], rtol=2e-5)
        np.testing.assert_allclose(actual[~before_end], k["min_val"], rtol=1e-6)
    k = kwargs["warmup_exp"]
    schedule = optim.warmup_exponential(
        k["max_val"], warmup_steps=k["warmup_steps"], factor=k["decay_factor"],
        interval=k["decay_interval"], start=k["start_val"],
    )  # fmt: skip
    actual = [schedule(int(step)) for step in golden["itr"]]
    np.testing.assert_allclose(actual, golden["warmup_exp"], rtol=1e-6)


def test_the_ramp_of_the_average_is_that_of_the_golden_file():
    golden = load_golden("schedules")
    decays = [optim.ema_decay(jnp.asarray(step), 0.99999) for step in golden["itr"]]
    # The file holds one update from 0 towards 1.
    expected = golden["tf1_ema_0_to_1_decay0.99999"]
    np.testing.assert_allclose(1 - np.asarray(decays), expected, rtol=1e-5)


def test_the_warm_up_must_leave_room():
    with pytest.raises(ValueError, match="warmup_steps=10 must be at least 0 and less than"):
        optim.warmup_cosine(1.0, steps=10, warmup_steps=10)


def test_rates_scale_with_the_batch():
    assert optim.scaled_learning_rate(0.1, 4096) == 1.6


def test_the_average_follows_the_parameters():
    params = {"w": jnp.asarray([1.0, 2.0])}
    transform = optax.chain(optax.sgd(1.0), optim.parameter_ema(0.9))
    state = transform.init(params)
    average = params["w"]
    for step in range(4):
        updates, state = transform.update({"w": jnp.asarray([0.5, -1.0])}, state, params)
        params = optax.apply_updates(params, updates)
        decay = min(0.9, (1 + step) / (10 + step))
        average = average * decay + params["w"] * (1 - decay)
        np.testing.assert_allclose(optim.ema_parameters(state)["w"], average, rtol=1e-6)


def test_there_is_one_average_to_read():
    with pytest.raises(ValueError, match="found 0"):
        optim.ema_parameters(optax.sgd(0.1).init({"w": jnp.ones(2)}))
    with pytest.raises(ValueError, match="decay in"):
        optim.parameter_ema(1.0)


def mixed_loss(model, images, targets):
    features, signal = jax.vmap(tap_signal(model))(images)
    losses = smoothed_cross_entropy(features.logits, targets, rules.LABEL_SMOOTHING)
    return jnp.mean(losses), signal_statistics(signal)


def test_steps_are_those_of_the_golden_file():
    """Three steps of the official optimizer with its parameter groups."""
    golden = load_golden("trajectory_tiny")
    facts = meta(golden)
    model = official_model("nfnet_f0", num_classes=10, **tiny_overrides())
    hyper, lr = facts["opt"], facts["lr_schedule"]
    schedule = optim.warmup_cosine(
        lr["max_val"], steps=lr["num_steps"], warmup_steps=lr["warmup_steps"]
    )
    optimizer = optim.nfnet_sgd(
        schedule, clipping=hyper["clipping"], clipping_eps=hyper["eps"],
        weight_decay=hyper["weight_decay"], momentum=hyper["momentum"], ema=0.99999,
    )  # fmt: skip

    @jax.jit
    def step(model, opt_state, images, targets):
        (loss, _), gradients = jax.value_and_grad(mixed_loss, has_aux=True)(model, images, targets)
        updates, opt_state = optimizer.update(gradients, opt_state, model)
        return optax.apply_updates(model, updates), opt_state, loss, gradients

    opt_state = optimizer.init(model)
    size, (height, width) = facts["bs"], facts["hw"]
    for index in range(facts["steps"]):
        name = f"traj_input:public:{index}:{size}x{height}x{width}x3"
        images = jnp.asarray(rules.make_array(name, (size, height, width, 3), 1.0, 0.0))
        targets = jax.nn.one_hot((np.arange(size) * 3 + index) % 10, 10)
        np.testing.assert_allclose(schedule(index), golden["lr"][index], rtol=1e-6)
        before = model
        model, opt_state, loss, gradients = step(model, opt_state, images, targets)
        np.testing.assert_allclose(loss, golden["loss"][index], rtol=1e-5)
        momentum = optax.tree.get(opt_state, "trace")
        check_norms(golden, index, grad_l2=gradients, param_l2=model,
                    ema_l2=optim.ema_parameters(opt_state), momentum_l2=momentum)  # fmt: skip
        check_clipped_share(golden, index, gradients, before, hyper)

    final = to_official(model)
    for name in golden:
        if name.startswith("final/"):
            expected = golden[name]
            np.testing.assert_allclose(
                final[name.removeprefix("final/")], expected, rtol=1e-4, atol=1e-6
            )


def check_norms(golden, index, **trees):
    for key, tree in trees.items():
        actual = to_official(tree)
        for name, expected in zip(golden["param_names"], golden[key][index], strict=True):
            rtol = 2e-2 if name.endswith("skip_gain") else 1e-3
            norm = np.linalg.norm(actual[name].astype(np.float64))
            np.testing.assert_allclose(
                norm, expected, rtol=rtol, atol=1e-9, err_msg=f"{key} {name}"
            )


def check_clipped_share(golden, index, gradients, model, hyper):
    shares = dict(zip(golden["param_names"], golden["clipped_unit_fraction"][index], strict=True))
    count = ft.partial(optim.clip_telemetry, clipping=hyper["clipping"], eps=hyper["eps"])
    block = lambda tree: tree.stages[1].blocks[0].conv1
    prefix = "NFNet/~/nf_block_1/~/conv1"
    for leaf, name in (("weight", "w"), ("gain", "gain")):
        pair = [{leaf: getattr(block(tree), leaf)} for tree in (gradients, model)]
        units = {"weight": (-1,), "gain": ()}[leaf]
        share = count(*pair, units={leaf: units}).share
        np.testing.assert_allclose(share, shares[f"{prefix}/{name}"], atol=1e-6)
