"""Every family against outputs of its reference, with parameters loaded by their names there.

The cases come from the registry: a family without one, and without a reason, is a failure.
"""

import dataclasses
import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfx
from nfx.analysis import signal_statistics, tap_signal
from nfx.graph import taps
from nfx.models import model_variant
from nfx.weights import official_names, timm_names, to_official, to_timm
from tests.golden import rules
from tests.reference import (
    BATCH_NORM_CASES,
    golden_model,
    load_golden,
    meta,
    PARITY_CASES,
)


# Models of a structure that no golden file has, and why that will do.
WITHOUT_GOLDEN = {
    "se_resnext_micro": "se_resnext50_d without the max-pool and with gelu, to learn with",
}


# Fields that decide how much is computed, and not what.
SIZES = {
    "depths", "widths", "strides", "stem_widths", "stem_width", "stem_strides", "train_size",
    "test_size", "groups", "drop_rate", "stochastic_depth_rate", "expansion", "head_std",
}  # fmt: skip

# Of these it matters whether there is one.
OPTIONAL = {
    "group_width", "first_expansion", "squeeze_excite_ratio", "final_expansion", "skip_gain",
}  # fmt: skip


def structure(name, overrides=None):
    """What a golden file of one model proves for others that share it."""
    variant = model_variant(name, **(overrides or {}))
    return frozenset(
        (field.name, value is not None if field.name in OPTIONAL else value)
        for field in dataclasses.fields(variant)
        if field.name not in SIZES
        for value in [getattr(variant, field.name)]
    )


@pytest.mark.parametrize("name", nfx.list_models())
def test_every_model_has_the_structure_of_a_golden_file(name):
    proven = {structure(*case) for case in PARITY_CASES.values()}
    proven |= {structure(*case) for case in BATCH_NORM_CASES.values()}
    assert structure(name) in proven or name in WITHOUT_GOLDEN


@ft.partial(jax.jit, static_argnums=0)
def run(points, model, images, labels):
    def loss_of(model):
        call = lambda model, image: tap_signal(model)(image)
        (features, signal), activations = jax.vmap(taps(model, points, call=call))(images)
        targets = jax.nn.one_hot(labels, features.logits.shape[-1])
        targets = optax.smooth_labels(targets, rules.LABEL_SMOOTHING)
        loss = jnp.mean(optax.softmax_cross_entropy(features.logits, targets))
        statistics = {path: summary(x) for path, x in activations.items()}
        return loss, (features.logits, features.pooled, signal_statistics(signal), statistics)

    return jax.value_and_grad(loss_of, has_aux=True)(model)


def summary(x):
    return jnp.stack([x.mean(), x.std(), x.min(), x.max(), jnp.linalg.norm(x.ravel())])


# Half a minute each to compile, and the same structure as another case, or many groups.
SLOW = {"official_nf_regnet_b0_64", "official_nf_resnet50_64", "timm_dm_nfnet_f0_64x64"}
LONG = {
    "official_nfnet_f0_97", "official_nfnet_f1_64", "timm_eca_nfnet_l0_64x64",
    "timm_nf_resnet50_64x64",
}  # fmt: skip
MARKS = dict.fromkeys(SLOW, pytest.mark.slow) | dict.fromkeys(LONG, pytest.mark.long)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=MARKS.get(case, ())) for case in PARITY_CASES]
)
def test_agrees_with_the_reference(case):
    name, overrides = PARITY_CASES[case]
    golden = load_golden(case)
    facts = meta(golden)
    model = golden_model(golden, name, num_classes=facts["num_classes"], **overrides)
    images = rules.make_input(*facts.get("input_shape", facts.get("input_shape_nhwc")))
    labels = rules.make_labels(len(images), facts["num_classes"])
    convs = convolutions(model, official=case.startswith("official"))
    (loss, (logits, pooled, signal, activations)), gradients = run(
        tuple(convs), model, images, labels
    )

    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(pooled, golden["pool"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    if "metric_names" in golden:
        check_signal(signal, golden)
    if "feat_names" in golden:
        check_activations({convs[path]: value for path, value in activations.items()}, golden)
    convert = to_official if case.startswith("official") else to_timm
    check_gradients(convert(gradients), golden)


def convolutions(model, *, official):
    """The reference's name of each convolution, by its path."""
    names = official_names(model) if official else timm_names(model)
    return {
        path.removesuffix("/gain"): name[: -len("/gain")]
        for path, name in names.items()
        if path.endswith("/gain")
    }


def check_signal(signal, golden):
    actual = {
        f"{name}_{index}": value
        for name, values in zip(("avg_sq_mean", "avg_var", "res_avg_var"), signal, strict=True)
        for index, value in enumerate(np.asarray(values))
    }
    expected = dict(zip(golden["metric_names"], golden["metric_values"], strict=True))
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-4, err_msg=name)


def check_activations(actual, golden):
    """Mean, deviation, extremes and norm of the output of every convolution."""
    expected = dict(zip(golden["feat_names"], golden["feat_stats"], strict=True))
    assert actual.keys() <= expected.keys()
    for name, statistics in actual.items():
        scale = np.abs(expected[name][2:4]).max()
        np.testing.assert_allclose(
            statistics, expected[name], rtol=1e-4, atol=1e-4 * scale, err_msg=name
        )


def check_gradients(gradients, golden):
    assert sorted(gradients) == sorted(golden["param_names"])
    for name, norm in zip(golden["param_names"], golden["grad_l2"], strict=True):
        # The gradients of these are sums over the image that nearly cancel.
        cancels = name.endswith(("skip_gain", "skipinit_gain", "attn_last.conv.weight"))
        actual = np.linalg.norm(gradients[name].astype(np.float64))
        np.testing.assert_allclose(actual, norm, rtol=2e-2 if cancels else 1e-3, err_msg=name)
    for key in golden:
        if key.startswith("grad/"):
            name, expected = key.removeprefix("grad/"), golden[key]
            if name.endswith(("skipinit_gain", "attn_last.conv.weight")):
                continue  # by their norms alone: these references are not float64
            scale = np.max(np.abs(expected))
            np.testing.assert_allclose(
                gradients[name], expected, rtol=1e-3, atol=1e-4 * scale, err_msg=key
            )


def test_the_tiny_case_pins_every_gradient():
    golden = load_golden("official_tiny_48x40")
    assert all(f"grad/{name}" in golden for name in golden["param_names"])
