"""NFNets against outputs of the official code, with parameters loaded by official names."""

import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfx.analysis import trace_statistics
from nfx.weights import from_official, official_names, to_official
from tests.golden import rules
from tests.reference import create_abstract, load_golden, meta, official_model, tiny_overrides


CASES = {
    "official_nfnet_f0_64": ("nfnet_f0", {}),
    "official_nfnet_f0_97": ("nfnet_f0", {}),
    "official_nfnet_f1_64": ("nfnet_f1", {}),
    "official_tiny_48x40": ("nfnet_f0", tiny_overrides()),
    "official_tiny_33x47": ("nfnet_f0", tiny_overrides()),
}


@jax.jit
@ft.partial(jax.value_and_grad, has_aux=True)
def run(model, images, labels):
    trace = jax.vmap(model.trace)(images)
    classes = trace.logits.shape[-1]
    targets = optax.smooth_labels(jax.nn.one_hot(labels, classes), rules.LABEL_SMOOTHING)
    loss = jnp.mean(optax.softmax_cross_entropy(trace.logits, targets))
    return loss, (trace.logits, trace.pooled, trace_statistics(trace))


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_official_code(case):
    name, overrides = CASES[case]
    golden = load_golden(case)
    facts = meta(golden)
    model = official_model(name, num_classes=facts["num_classes"], **overrides)
    images = rules.make_input(*facts["input_shape"])
    labels = rules.make_labels(len(images), facts["num_classes"])
    (loss, (logits, pooled, signal)), gradients = run(model, images, labels)

    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(pooled, golden["pool"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    check_signal(signal, golden)
    check_gradients(to_official(gradients), golden)


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


def check_gradients(gradients, golden):
    assert sorted(gradients) == sorted(golden["param_names"])
    for name, norm in zip(golden["param_names"], golden["grad_l2"], strict=True):
        # A skip gain's gradient is a sum over the image that nearly cancels.
        rtol = 2e-2 if name.endswith("skip_gain") else 1e-3
        actual = np.linalg.norm(gradients[name].astype(np.float64))
        np.testing.assert_allclose(actual, norm, rtol=rtol, err_msg=name)
    for key in golden:
        if key.startswith("grad/"):
            expected = golden[key]
            scale = np.max(np.abs(expected))
            np.testing.assert_allclose(
                gradients[key.removeprefix("grad/")], expected, rtol=1e-3, atol=1e-4 * scale,
                err_msg=key,
            )  # fmt: skip


def test_the_tiny_case_pins_every_gradient():
    golden = load_golden("official_tiny_48x40")
    assert all(f"grad/{name}" in golden for name in golden["param_names"])


def test_weights_go_back_to_where_they_came_from():
    golden = load_golden("official_tiny_48x40")
    mapping = {name: golden[f"param/{name}"] for name in golden["param_names"]}
    model = from_official(mapping, create_abstract("nfnet_f0", num_classes=10, **tiny_overrides()))
    back = to_official(model)
    assert back.keys() == mapping.keys()
    for name in mapping:
        np.testing.assert_array_equal(back[name], mapping[name], err_msg=name)


def test_a_mapping_that_does_not_fit_lists_every_problem():
    model = create_abstract("nfnet_f0", num_classes=10, **tiny_overrides())
    names = official_names(model).values()
    mapping: dict[str, np.ndarray] = {
        name: np.zeros(leaf.shape) for name, leaf in zip(names, jax.tree.leaves(model), strict=True)
    }
    del mapping["NFNet/~/nf_block_1/~/conv0/w"]
    mapping["NFNet/~/linear/w"] = np.zeros((192, 1000))
    mapping["NFNet/~/final_conv/bias"] = np.full(192, np.nan)
    mapping["NFNet/~/moving_average"] = np.zeros(3)
    with pytest.raises(ValueError, match="do not fit the model") as error:
        from_official(mapping, model)
    for part in (
        "no 'NFNet/~/nf_block_1/~/conv0/w' for 'stages/1/blocks/0/conv0/weight'",
        "'NFNet/~/linear/w' has shape (192, 1000), and 'head/weight' (192, 10)",
        "'NFNet/~/final_conv/bias' has values that are not finite",
        "the model has nothing for 'NFNet/~/moving_average', shape (3,)",
    ):
        assert part in str(error.value)
