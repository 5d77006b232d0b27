"""AGC: the reference's outputs, and the laws that define it."""

import functools as ft

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given

from nfx.optim import adaptive_grad_clip, clip_unitwise, count_clipped, unitwise_norm
from tests.reference import create_abstract, load_golden, tiny_overrides
from tests.strategies import arrays


LAYOUTS = [((3, 3, 4, 6), (-1,)), ((4, 3), (0,)), ((2, 3, 4, 5), (0, -1)), ((7,), ()), ((), ())]


def pairs(shape):
    return st.tuples(arrays(shape), arrays(shape))


cases = st.sampled_from(LAYOUTS).flatmap(
    lambda layout: st.tuples(pairs(layout[0]), st.just(layout[1]))
)
clip = jax.jit(clip_unitwise, static_argnums=2, static_argnames="clipping")
CLIPPING = 0.01


def by_unit(x, units):
    """Rows are units: the closed form in float64 works on these."""
    x = np.asarray(x, np.float64)
    kept = [axis % x.ndim for axis in units]
    reduced = [axis for axis in range(x.ndim) if axis not in kept]
    sizes = [x.shape[axis] for axis in kept]
    return x.transpose(*kept, *reduced).reshape(int(np.prod(sizes)), -1)


def closed_form(gradient, parameter, units, clipping=CLIPPING, eps=1e-3):
    rows, weights = by_unit(gradient, units), by_unit(parameter, units)
    bound = clipping * np.maximum(np.linalg.norm(weights, axis=1), eps)
    norm = np.linalg.norm(rows, axis=1)
    return rows * np.where(norm > bound, bound / np.maximum(norm, 1e-6), 1)[:, None]


def check_closed_form(function, gradient, parameter, units):
    clipped = function(jnp.asarray(gradient), jnp.asarray(parameter), units)
    expected = closed_form(gradient, parameter, units)
    np.testing.assert_allclose(by_unit(clipped, units), expected, rtol=1e-5, atol=1e-9)


@given(cases)
def test_agrees_with_the_closed_form(case):
    (gradient, parameter), units = case
    check_closed_form(ft.partial(clip, clipping=CLIPPING), gradient, parameter, units)


@given(cases)
def test_units_within_the_bound_come_back_bitwise(case):
    (gradient, parameter), units = case
    clipped = clip(jnp.asarray(gradient), jnp.asarray(parameter), units, clipping=CLIPPING)
    norms = [unitwise_norm(jnp.asarray(x), units) for x in (gradient, parameter)]
    inside = np.broadcast_to(norms[0] <= CLIPPING * jnp.maximum(norms[1], 1e-3), gradient.shape)
    np.testing.assert_array_equal(np.asarray(clipped)[inside], gradient[inside])


@given(cases)
def test_every_unit_is_within_the_bound_and_clipping_twice_changes_nothing(case):
    (gradient, parameter), units = case
    parameter = jnp.asarray(parameter)
    once = clip(jnp.asarray(gradient), parameter, units, clipping=CLIPPING)
    bound = CLIPPING * jnp.maximum(unitwise_norm(parameter, units), 1e-3)
    assert jnp.all(unitwise_norm(once, units) <= bound * (1 + 1e-5))
    twice = clip(once, parameter, units, clipping=CLIPPING)
    np.testing.assert_allclose(twice, once, rtol=1e-5)


@given(pairs((3, 3, 2, 4)), st.permutations(range(4)))
def test_a_unit_depends_on_itself_alone(pair, order):
    gradient, parameter = map(jnp.asarray, pair)
    order = jnp.asarray(order)
    whole = clip(gradient, parameter, (-1,), clipping=CLIPPING)[..., order]
    permuted = clip(gradient[..., order], parameter[..., order], (-1,), clipping=CLIPPING)
    np.testing.assert_allclose(whole, permuted, rtol=1e-6)


def wrong_axis(g, p, units, **kwargs):
    return clip_unitwise(g, p, (0,) if units == (-1,) else units, **kwargs)


def planted(norm=unitwise_norm, floor=lambda n: jnp.maximum(n, 1e-3)):
    def function(g, p, units):
        bound = CLIPPING * floor(norm(p, units))
        size = norm(g, units)
        return jnp.where(size > bound, g * (bound / jnp.maximum(size, 1e-6)), g)

    return function


PLANTED = {
    "units on the wrong axis": ft.partial(wrong_axis, clipping=CLIPPING),
    "squared norm": planted(norm=lambda x, u: unitwise_norm(x, u) ** 2),
    "mean for sum": planted(norm=lambda x, u: unitwise_norm(x, u) / np.sqrt(x[..., 0].size)),
    "no floor": planted(floor=lambda n: n),
    "eps added for floored": planted(floor=lambda n: n + 1e-3),
    "one norm for the leaf": planted(norm=lambda x, u: unitwise_norm(x, ())),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_the_closed_form_catches(bug):
    rng = np.random.default_rng(0)
    scales = np.asarray([1, 0.1, 0.01, 0.001])
    gradient = (rng.normal(size=(3, 3, 2, 4)) * scales).astype(np.float32)
    parameter = (rng.normal(size=(3, 3, 2, 4)) * np.asarray([1, 1, 1e-6, 1])).astype(np.float32)
    check_closed_form(planted(), gradient, parameter, (-1,))
    with pytest.raises(AssertionError):
        check_closed_form(PLANTED[bug], gradient, parameter, (-1,))


def golden_units(arrays):
    """The official rule guesses from the rank; it reads HWIO and IO, and vectors whole."""

    def guess(x):
        if np.squeeze(x).ndim <= 1:
            return ()
        return (1, 2) if x.ndim == 3 else (-1,)

    return {name: guess(x) for name, x in arrays.items()}


def section(golden, prefix):
    names = [name for name in golden if name.startswith(f"{prefix}/")]
    return {name.removeprefix(f"{prefix}/"): jnp.asarray(golden[name]) for name in names}


def test_golden_clipping():
    golden = load_golden("agc")
    params, gradients = section(golden, "param"), section(golden, "grad")
    units = golden_units(params)
    for name, norms in section(golden, "unitnorm").items():
        actual = unitwise_norm(params[name], units[name])
        np.testing.assert_allclose(np.ravel(actual), np.ravel(norms), rtol=1e-6, err_msg=name)
    for index, (clipping, eps) in enumerate(golden["configs"]):
        transform = adaptive_grad_clip(float(clipping), float(eps), units=units)
        clipped, _ = transform.update(gradients, transform.init(params), params)
        for name, expected in section(golden, f"clipped{index}").items():
            np.testing.assert_allclose(clipped[name], expected, rtol=1e-6, err_msg=name)


def test_equals_optax_where_optax_is_right(key):
    tree = {"hwio": (3, 3, 4, 6), "io": (5, 7), "vector": (6,)}
    keys = dict(zip(tree, jax.random.split(key, 3), strict=True))
    params = {name: jax.random.normal(keys[name], shape) for name, shape in tree.items()}
    gradients = jax.tree.map(lambda p: jnp.flip(p) * 0.03, params)
    ours = adaptive_grad_clip(0.02, units={"hwio": (-1,), "io": (-1,), "vector": ()})
    theirs = optax.adaptive_grad_clip(0.02)
    updates = [t.update(gradients, t.init(params), params)[0] for t in (ours, theirs)]
    jax.tree.map(np.testing.assert_array_equal, *updates)


def test_knows_the_layout_of_equinox_where_optax_guesses(key):
    layer = eqx.filter(eqx.nn.Conv2d(3, 8, 3, key=key), eqx.is_inexact_array)
    gradient = jax.tree.map(lambda p: jax.random.normal(key, p.shape), layer)

    def ratios(transform):
        update, _ = transform.update(gradient, transform.init(layer), layer)
        norms = [np.linalg.norm(np.reshape(x.weight, (8, -1)), axis=1) for x in (update, layer)]
        return norms[0] / norms[1]

    np.testing.assert_allclose(ratios(adaptive_grad_clip(0.01)), 0.01, rtol=1e-5)
    assert ratios(optax.adaptive_grad_clip(0.01)).max() > 0.011


def test_excluded_leaves_are_left_alone_and_not_counted():
    abstract = create_abstract("nfnet_f0", num_classes=10, **tiny_overrides())
    model = jax.tree.map(lambda x: jnp.ones(x.shape), abstract)
    gradients = jax.tree.map(lambda x: 1e3 * x, model)
    transform = adaptive_grad_clip(0.01, exclude=("head/weight",))

    @jax.jit
    def run(gradients, model):
        clipped, _ = transform.update(gradients, transform.init(model), model)
        count = count_clipped(gradients, model, clipping=0.01, exclude=("head/weight",))
        everything = count_clipped(gradients, model, clipping=0.01)
        return clipped, count, everything

    clipped, count, everything = run(gradients, model)
    np.testing.assert_array_equal(clipped.head.weight, gradients.head.weight)
    assert jnp.all(clipped.head.bias < gradients.head.bias)
    assert float(count.share) == float(everything.share) == 1
    assert everything.total - count.total == 10


def test_counts_the_units_that_change():
    parameter = {"w": jnp.ones((2, 4))}
    gradient = {"w": jnp.ones((2, 4)) * jnp.asarray([1, 0.001, 1, 0.001])}
    count = count_clipped(gradient, parameter, clipping=0.01, units={"w": (-1,)})
    assert (float(count.clipped), count.total, float(count.share)) == (2, 4, 0.5)


def test_one_entry_of_units_serves_a_subtree():
    params = {"a": {"x": jnp.ones((2, 3)), "y": jnp.ones((4, 5))}, "b": jnp.ones(3)}
    gradients = jax.tree.map(lambda x: jnp.cumsum(x, axis=0), params)
    prefix = adaptive_grad_clip(0.01, units={"a": (-1,), "b": ()})
    full = adaptive_grad_clip(0.01, units={"a": {"x": (-1,), "y": (-1,)}, "b": ()})
    updates = [t.update(gradients, t.init(params), params)[0] for t in (prefix, full)]
    jax.tree.map(np.testing.assert_array_equal, *updates)


def test_is_the_same_on_sharded_leaves(key):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    gradient, parameter = jax.random.normal(key, (2, 4, 3, 8, 16))
    expected = clip(gradient, parameter, (-1,), clipping=CLIPPING)
    for spec in (jax.P("data"), jax.P(None, None, None, "data")):
        sharding = jax.NamedSharding(mesh, spec)
        placed = jax.device_put((gradient, parameter), sharding)
        np.testing.assert_allclose(clip(*placed, (-1,), clipping=CLIPPING), expected, rtol=1e-6)


def test_norms_of_half_precision_are_taken_in_float32():
    x = jnp.full((256, 4), 300.0, jnp.float16)
    np.testing.assert_allclose(unitwise_norm(x, (-1,)), 4800.0)
    clipped = clip_unitwise(x, jnp.ones_like(x), (-1,), clipping=0.01)
    assert clipped.dtype == jnp.float16
    np.testing.assert_allclose(clipped.astype(jnp.float32), 0.01, rtol=1e-3)


@pytest.mark.parametrize(("clipping", "eps"), [(0.0, 1e-3), (-1.0, 1e-3), (0.01, 0.0)])
def test_refuses_a_bound_that_stops_learning(clipping, eps):
    with pytest.raises(ValueError, match="needs clipping > 0 and eps > 0"):
        adaptive_grad_clip(clipping, eps)


def test_needs_the_parameters():
    transform = adaptive_grad_clip(0.01)
    with pytest.raises(ValueError, match=r"call optimizer\.update"):
        transform.update({"w": jnp.ones(3)}, transform.init({}))
