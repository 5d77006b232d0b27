"""Weight standardization: the reference's outputs, and the laws that define it."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from nfx.nn import standardize_weight, standardize_weight_timm
from tests.reference import load_golden
from tests.strategies import arrays


SHAPES = [(3, 3, 4, 6), (1, 1, 16, 8), (5, 3)]
kernels = st.sampled_from(SHAPES).flatmap(arrays)
standardize = jax.jit(standardize_weight)


def ones(weight):
    return jnp.ones(weight.shape[-1])


def fan_in_variance(weight):
    axes = tuple(range(weight.ndim - 1))
    return np.var(np.asarray(weight, np.float64), axis=axes) * (weight.size // weight.shape[-1])


def test_golden_kernels():
    golden = load_golden("ws")
    for case in range(int(golden["n"])):
        weight, gain = jnp.asarray(golden[f"{case}/w"]), jnp.asarray(golden[f"{case}/gain"])
        actual = standardize_weight(weight, gain)
        # The official code leaves 1.5e-5 of rounding on a constant kernel; the exact value is 0.
        constant = fan_in_variance(weight).max() < 1e-9
        atol = 2e-5 if constant else 1e-6
        np.testing.assert_allclose(actual, golden[f"{case}/out"], rtol=1e-5, atol=atol)
        if f"{case}/timm_rule_f64" in golden:
            expected = golden[f"{case}/timm_rule_f64"]
            timm = standardize_weight_timm(weight, gain)
            np.testing.assert_allclose(timm, expected, rtol=1e-5, atol=1e-6)


def check_moments(function, weight):
    """Every unit has mean 0 and, unless it has collapsed, variance gain^2 / fan_in.

    Up to rounding: of a float32 mean, which the scale multiplies.
    """
    gain = np.linspace(0.5, 2, weight.shape[-1], dtype=np.float32)
    out = np.asarray(function(weight, gain), np.float64)
    axes = tuple(range(weight.ndim - 1))
    fan_in = weight.size // weight.shape[-1]
    healthy = fan_in_variance(weight) > 2e-4
    rounding = 1e-6 * np.abs(weight).max(axis=axes) * scale(weight, gain)
    assert np.all(np.abs(out.mean(axis=axes)) <= 1e-6 + rounding)
    variance = out.var(axis=axes) * fan_in
    np.testing.assert_allclose(variance[healthy], gain[healthy] ** 2, rtol=1e-3)


@given(kernels)
def test_units_have_zero_mean_and_variance_gain_squared_over_fan_in(weight):
    check_moments(lambda w, g: standardize(jnp.asarray(w), jnp.asarray(g)), weight)


PLANTED = {
    "unbiased variance": lambda w, g: w_hat(w, g, ddof=1),
    "mean over the wrong axes": lambda w, g: (w - w.mean(axis=-1, keepdims=True)) * scale(w, g),
    "no mean": lambda w, g: w * scale(w, g),
    "no fan-in": lambda w, g: w_hat(w, g) * np.sqrt(w.size / w.shape[-1]),
    "no gain": lambda w, g: w_hat(w, np.ones_like(g)),
}


def scale(w, g, ddof=0):
    axes = tuple(range(w.ndim - 1))
    return g / np.sqrt(np.maximum(w.var(axis=axes, ddof=ddof) * (w.size // w.shape[-1]), 1e-4))


def w_hat(w, g, ddof=0):
    return (w - w.mean(axis=tuple(range(w.ndim - 1)))) * scale(w, g, ddof)


@pytest.mark.parametrize("bug", PLANTED)
def test_the_law_of_moments_catches(bug):
    weight = np.random.default_rng(0).normal(0.3, 1, (3, 3, 4, 6)).astype(np.float32)
    check_moments(w_hat, weight)
    with pytest.raises(AssertionError):
        check_moments(PLANTED[bug], weight)


@given(kernels, st.floats(0.125, 8), st.floats(-2, 2))
def test_shift_and_positive_scale_of_a_kernel_do_not_matter(weight, factor, shift):
    healthy = (fan_in_variance(weight) > 0.1) & (fan_in_variance(weight * factor) > 0.1)
    hypothesis.assume(healthy.any())
    moved = np.float32(factor) * weight + np.float32(shift)
    first, second = (standardize(jnp.asarray(w), ones(weight)) for w in (weight, moved))
    np.testing.assert_allclose(second[..., healthy], first[..., healthy], atol=2e-4)


def test_a_collapsed_unit_becomes_zero_and_has_a_finite_gradient():
    weight = jnp.full((3, 3, 2, 4), 0.7)
    out, pull_back = jax.vjp(lambda w: standardize_weight(w, jnp.ones(4)), weight)
    np.testing.assert_allclose(out, 0, atol=1e-4)
    assert jnp.all(jnp.isfinite(pull_back(jnp.ones_like(out))[0]))


def test_the_gradient_is_orthogonal_to_shift_and_scale(key):
    weight = jax.random.normal(key, (3, 3, 4, 5))
    target = jax.random.normal(jax.random.key(1), weight.shape)
    loss = lambda w: jnp.sum(target * standardize_weight(w, jnp.ones(5)))
    gradient = jax.grad(loss)(weight)
    np.testing.assert_allclose(jnp.sum(gradient, (0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(jnp.sum(gradient * weight, (0, 1, 2)), 0, atol=1e-4)
