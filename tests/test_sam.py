"""Sharpness-aware minimization: its definition, with clipping, randomness and meshes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfx.optim import adaptive_grad_clip, nfnet_sgd, sharpness_aware
from nfx.sharding import make_mesh, place_batch
from nfx.train import create_state, make_train_step, Preprocessing
from tests.test_sharding import batch_of, MIXED, NANO


RADIUS = 0.5


def ascended(params, gradients):
    """Equation 2 of arXiv:2010.01412: where the loss is about highest in the ball."""
    scale = RADIUS / optax.tree.norm(gradients)
    return jax.tree.map(lambda p, g: p + scale * g, params, gradients)


def loss(params):
    return jnp.sum(jnp.cos(params["w"]) * 3) + jnp.sum(params["b"] ** 4)


def test_steps_by_the_gradient_in_the_ball_which_alone_is_clipped(key):
    params = {"w": jax.random.normal(key, (3, 4)), "b": jnp.arange(1.0, 3.0)}
    units = {"w": (-1,), "b": ()}
    inner = optax.chain(adaptive_grad_clip(0.1, units=units), optax.sgd(0.1, momentum=0.9))
    optimizer = sharpness_aware(inner, RADIUS)
    state, inner_state, expected = optimizer.init(params), inner.init(params), params
    for _ in range(3):
        updates, state = optimizer.update(
            jax.grad(loss)(params), state, params, grad_fn=lambda params, _: jax.grad(loss)(params)
        )
        params = optax.apply_updates(params, updates)
        in_ball = jax.grad(loss)(ascended(expected, jax.grad(loss)(expected)))
        updates, inner_state = inner.update(in_ball, inner_state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, expected)


def test_without_a_gradient_it_stays(key):
    params = {"w": jnp.ones(3)}
    optimizer = sharpness_aware(optax.sgd(0.1), RADIUS)
    zeros = lambda params, _: jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros(params, 0), optimizer.init(params), params, grad_fn=zeros)
    np.testing.assert_array_equal(updates["w"], 0)


@pytest.mark.parametrize("radius", [0.0, -0.1])
def test_a_ball_has_a_radius(radius):
    with pytest.raises(ValueError, match="needs a positive radius"):
        sharpness_aware(optax.sgd(0.1), radius)


def steps(optimizer, devices, state=None, count=1):
    mesh = make_mesh({"data": devices}, jax.devices()[:devices])
    state = state or create_state(NANO, optimizer, mesh)
    step = make_train_step(optimizer, Preprocessing((0.5,), (0.25,), MIXED), mesh)
    for _ in range(count):
        state, _ = step(state, place_batch(batch_of(8), mesh), jax.random.key(1))
    return jax.device_get(state)


@pytest.mark.slow
def test_both_gradients_of_a_training_step_see_the_same_randomness():
    """Stochastic depth, dropout, MixUp and CutMix included."""
    plain = optax.sgd(1.0)
    before = jax.device_get(create_state(NANO, plain, make_mesh({"data": 1}, jax.devices()[:1])))
    difference = lambda a, b: jax.tree.map(lambda x, y: x - y, a, b)
    gradient = difference(before.model, steps(plain, 1).model)
    in_ball = jax.device_get(ascended(before.model, gradient))  # a step takes its state away
    there = eqx.tree_at(lambda state: state.model, before, in_ball)
    expected = difference(in_ball, steps(plain, 1, state=there).model)
    found = difference(before.model, steps(sharpness_aware(plain, RADIUS), 1).model)
    norm = lambda tree: float(optax.tree.norm(tree))
    assert norm(difference(found, expected)) < 1e-4 * norm(expected)
    assert norm(difference(found, gradient)) > 1e-2 * norm(gradient)


def test_a_step_whose_second_gradient_overflows_says_so():
    """The loss and the first gradient know nothing of it: they would blame the step after it."""
    optimizer, mesh = sharpness_aware(optax.sgd(0.1), 1e20), make_mesh({"data": 8})
    step = make_train_step(optimizer, Preprocessing((0.5,), (0.25,), MIXED), mesh)
    state = create_state(NANO, optimizer, mesh)
    state, metrics = step(state, place_batch(batch_of(16), mesh), jax.random.key(1))
    finite = {name: bool(jnp.isfinite(value)) for name, value in metrics.items()}
    assert finite == {"loss": True, "gradient_norm": True, "update_norm": False}


@pytest.mark.slow
def test_a_mesh_changes_nothing_but_rounding():
    optimizer = sharpness_aware(nfnet_sgd(0.1, clipping=0.02, ema=0.9), 0.05)
    one, four = (steps(optimizer, devices, count=2) for devices in (1, 4))
    for ours, theirs in ((four.model, one.model), (four.ema, one.ema)):
        difference = jax.tree.map(lambda a, b: a - b, ours, theirs)
        assert optax.tree.norm(difference) < 1e-5 * optax.tree.norm(theirs)


@pytest.mark.parametrize("value", [0.0, 400.0])
def test_the_way_up_is_finite_in_half_precision(value):
    gradients = {"x": jnp.full(4, value, jnp.float16)}
    optimizer = sharpness_aware(optax.sgd(1.0), 0.5)
    params = {"x": jnp.zeros(4, jnp.float16)}
    seen = []

    def grad_fn(params, _):
        seen.append(params["x"])
        return gradients

    optimizer.update(gradients, optimizer.init(params), params, grad_fn=grad_fn)
    np.testing.assert_allclose(seen[0], 0.25 * np.sign(value), rtol=1e-3)
