"""Layers: convolutions, activations, attention, pooling, stochastic depth, the ledger."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfx import nn


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "groups", "padding"),
    [
        (7, 3, 1, 1, "SAME"),
        (8, 3, 2, 1, "SAME"),
        (7, 3, 2, 3, "SAME"),
        (8, 3, 2, 3, "symmetric"),
        (8, 1, 2, 1, "SAME"),
        (8, 7, 2, 1, "symmetric"),
    ],
)
def test_convolution_is_that_of_the_standardized_kernel(key, size, kernel, stride, groups, padding):
    conv = nn.WSConv2d(6, 9, kernel, stride=stride, groups=groups, padding=padding, key=key)
    conv = eqx.tree_at(lambda c: (c.gain, c.bias), conv, (jnp.arange(1.0, 10), jnp.arange(9.0)))
    x = jax.random.normal(key, (size, size + 1, 6))
    margin = (kernel - 1) // 2

    def reference(weight, x):
        return jax.lax.conv_general_dilated(
            x[None],
            nn.standardize_weight(weight, conv.gain),
            (stride, stride),
            "SAME" if padding == "SAME" else ((margin, margin),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )[0] + conv.bias  # fmt: skip

    np.testing.assert_allclose(conv(x), reference(conv.weight, x), rtol=1e-4, atol=1e-4)
    ours = jax.grad(lambda w, x: jnp.sum(jnp.sin(eqx.tree_at(lambda c: c.weight, conv, w)(x))))
    theirs = jax.grad(lambda w, x: jnp.sum(jnp.sin(reference(w, x))))
    np.testing.assert_allclose(ours(conv.weight, x), theirs(conv.weight, x), atol=2e-3, rtol=1e-3)


def test_symmetric_and_same_padding_sample_other_pixels_at_stride_two(key):
    x = jax.random.normal(key, (8, 8, 3))
    same, symmetric = (
        nn.WSConv2d(3, 4, 3, stride=2, padding=padding, key=key)(x)
        for padding in ("SAME", "symmetric")
    )
    assert same.shape == symmetric.shape
    assert not np.allclose(same, symmetric)


def test_a_vmapped_convolution_standardizes_once(key):
    conv = nn.WSConv2d(3, 4, 3, key=key)
    jaxpr = jax.make_jaxpr(jax.vmap(conv))(jnp.ones((5, 8, 8, 3)))
    assert str(jaxpr).count("rsqrt") == 1
    assert str(jaxpr).count("nfx_convolution[") == 1


def test_compute_follows_the_dtype_of_the_image(key):
    conv = nn.WSConv2d(3, 4, 3, key=key)
    assert conv(jnp.ones((4, 4, 3), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(in_channels=6, out_channels=8, groups=3), "groups=3 must divide in_channels=6"),
        (
            dict(in_channels=6, out_channels=8, padding="valid"),
            "padding='valid' must be one of 'SAME', 'symmetric'",
        ),
        (dict(in_channels=6, out_channels=8, standardization="torch"), "one of"),
        (dict(in_channels=6, out_channels=8, kernel_size=0), "kernel_size=0 must be the side of"),
    ],
)
def test_convolutions_refuse_what_they_cannot_do(key, arguments, message):
    # The constructor's annotations would refuse the names first, in these tests alone.
    build = getattr(nn.WSConv2d.__init__, "__wrapped__", nn.WSConv2d.__init__)
    with pytest.raises((ValueError, TypeError), match=message):
        build(object.__new__(nn.WSConv2d), **{"kernel_size": 3, **arguments}, key=key)


SHAPE_PRESERVING = sorted(set(nn.ACTIVATIONS) - {"glu", "log_softmax"})


@pytest.mark.parametrize("name", SHAPE_PRESERVING)
def test_gamma_gives_unit_variance(name):
    # Gauss-Hermite quadrature: exact where a sample would need millions of draws.
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    values = np.asarray(nn.ACTIVATIONS[name](jnp.asarray(nodes, jnp.float32)), np.float64)
    weights = weights / weights.sum()
    mean = np.sum(weights * values)
    assert np.sum(weights * (values - mean) ** 2) == pytest.approx(1, rel=5e-3)


@pytest.mark.parametrize("name", ["glu", "log_softmax"])
def test_gamma_gives_unit_variance_across_channels(name, key):
    values = nn.ACTIVATIONS[name](jax.random.normal(key, (512, 2048)))
    assert float(jnp.var(values, axis=0).mean()) == pytest.approx(1, rel=2e-2)


def test_gelu_is_the_approximation_and_gelu_exact_is_not():
    x = jnp.linspace(-3, 3, 101)
    exact = x * jax.scipy.stats.norm.cdf(x) * nn.ACTIVATIONS["gelu"].gamma
    np.testing.assert_allclose(nn.ACTIVATIONS["gelu_exact"](x), exact, atol=1e-5)
    assert 1e-4 < jnp.max(jnp.abs(nn.ACTIVATIONS["gelu"](x) - exact)) < 1e-3


def test_squeeze_excite_gates_each_channel(key):
    layer = nn.SqueezeExcite(10, 0.25, key=key)
    assert layer.fc0.weight.shape == (10, 2)
    x = jax.random.normal(key, (4, 5, 10))
    hidden = jnp.maximum(x.mean((0, 1)) @ layer.fc0.weight, 0)
    np.testing.assert_allclose(layer(x), jax.nn.sigmoid(hidden @ layer.fc1.weight), rtol=1e-5)
    assert nn.SqueezeExcite(3, 0.1, key=key).fc0.weight.shape == (3, 1)


def test_stochastic_depth_drops_whole_branches_and_does_not_rescale(key):
    keys = jax.random.split(key, 1000)
    drop = jax.vmap(lambda k, x: nn.StochasticDepth(0.3)(x, key=k), in_axes=(0, None))
    out = np.asarray(drop(keys, jnp.full((2, 2), 3.0)))
    assert set(np.unique(out)) == {0.0, 3.0}
    assert (out == out[:, :1, :1]).all()
    assert (out[:, 0, 0] == 0).mean() == pytest.approx(0.3, abs=0.05)
    scaled = nn.StochasticDepth(0.5, scale_by_keep=True)
    assert set(np.unique(jax.vmap(lambda k: scaled(jnp.ones(()), key=k))(keys))) == {0.0, 2.0}


def test_nothing_is_random_without_a_key():
    x = jnp.ones(3)
    assert nn.StochasticDepth(0.9)(x) is x
    assert nn.dropout(x, 0.9, key=None) is x
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), got rate=1"):
        nn.StochasticDepth(1.0)


def test_dropout_keeps_the_mean(key):
    out = np.asarray(nn.dropout(jnp.ones(10_000), 0.2, key=key))
    np.testing.assert_array_equal(np.unique(out), np.asarray([0, 1.25], np.float32))
    assert out.mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("size", "window", "stride"), [(4, 2, 2), (5, 2, 2), (7, 3, 2), (1, 2, 2)])
def test_pools_count_only_pixels_of_the_image(key, size, window, stride):
    x = jax.random.normal(key, (size, size, 2))
    average, largest = nn.average_pool(x, window, stride), nn.max_pool(x, window, stride)
    out = -(-size // stride)
    low = max((out - 1) * stride + window - size, 0) // 2
    for row, column in itertools.product(range(out), repeat=2):
        rows, columns = (
            slice(max(i * stride - low, 0), i * stride - low + window) for i in (row, column)
        )
        patch = np.asarray(x)[rows, columns]
        assert average.shape == largest.shape == (out, out, 2)
        np.testing.assert_allclose(average[row, column], patch.mean((0, 1)), rtol=1e-5)
        np.testing.assert_allclose(largest[row, column], patch.max((0, 1)))


def test_the_ledger_of_f0_is_the_official_one():
    expected = (
        (1.0,),
        (0.980581, 0.980581),
        (0.962250, 0.980581, 0.962250, 0.944911, 0.928477, 0.912871),
        (0.898027, 0.980581, 0.962250),
    )
    betas = nn.block_betas((1, 2, 6, 3), 0.2)
    for stage, expected_stage in zip(betas, expected, strict=True):
        np.testing.assert_allclose(stage, expected_stage, atol=1e-6)


def test_drop_rates_rise_with_depth_and_never_reach_the_full_rate():
    rates = nn.block_stochastic_depth_rates((1, 2, 1), 0.4)
    assert rates == ((0.0,), (0.1, 0.2), (pytest.approx(0.3),))


def test_linear_has_its_outputs_last(key):
    layer = nn.Linear(400, 300, key=key)
    x = jax.random.normal(key, (400,))
    np.testing.assert_allclose(layer(x), x @ layer.weight, rtol=1e-4, atol=1e-5)
    # A normal cut off at two standard deviations keeps 0.88 of it.
    assert float(jnp.std(layer.weight)) == pytest.approx(0.88 / 20, rel=0.02)
    assert float(jnp.max(jnp.abs(layer.weight))) <= 2 / 20
