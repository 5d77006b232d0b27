"""Signal propagation: what is measured, what is expected, and the command that shows both."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfx
from nfx.analysis import block_places, expected_signal, plot_signal, signal_propagation
from nfx.cli import main
from nfx.graph import fold_weight_standardization
from nfx.models import model_variant
from nfx.nn import block_betas
from tests.reference import create_abstract


def propagate(name, size, **fields):
    model = jax.jit(lambda: nfx.create_model(name, key=jax.random.key(0), **fields))()
    images = jax.random.normal(jax.random.key(1), (8, size, size, 3))
    return model, jax.jit(signal_propagation)(model, images)


@pytest.fixture(scope="module")
def nano():
    return propagate("nfnet_nano", 16, num_classes=3)


def test_the_ledger_is_what_betas_are_made_of(key):
    model = jax.eval_shape(lambda: nfx.create_model("nfnet_f1", key=key, skip_gain=1.0))
    opened = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), model)
    expected = expected_signal(opened)
    variant = model_variant("nfnet_f1")
    betas = np.concatenate(block_betas(variant.depths, variant.alpha))
    # Each block's beta is of the variance that the block before it left.
    np.testing.assert_allclose(expected[:-1] ** -0.5, betas, rtol=1e-6)


def test_a_folded_network_has_no_ledger():
    folded = jax.eval_shape(fold_weight_standardization, create_abstract("nfnet_nano"))
    with pytest.raises(ValueError, match="The model is folded: alpha and the gains are in"):
        jax.eval_shape(expected_signal, folded)


@pytest.mark.parametrize("fields", [{}, {"skip_gain": None}], ids=["skip gain", "kernel gain"])
def test_branches_that_start_closed_add_nothing(fields, key):
    fields = {"skip_gain": 0.0, **fields}
    model = nfx.create_model("nfnet_nano", num_classes=3, key=key, **fields)
    np.testing.assert_array_equal(expected_signal(model), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "fields"),
    [
        pytest.param("nf_resnet50", 160, {}, marks=pytest.mark.long, id="nf_resnet50"),
        pytest.param("nfnet_f0", 320, {"strided_shortcut": True}, id="nfnet_f0"),
    ],
)
def test_published_networks_follow_it_in_every_block(name, size, fields):
    model, signal = propagate(name, size, skip_gain=1.0, **fields)
    np.testing.assert_allclose(signal.variance[1:], expected_signal(model)[1:], rtol=0.1)


def test_pooled_shortcuts_do_not_as_noise_averages_out(nano):
    _, signal = nano
    assert signal.variance[2] < 0.5


def test_batch_norm_is_measured_too():
    fields = {"depths": (1, 1, 1, 1), "num_classes": 3}
    model, closed = propagate("se_resnext_micro", 16, **fields)
    np.testing.assert_array_equal(closed.residual_variance, 0)
    assert len(closed.variance) == len(block_places(model)) == 5
    gains = lambda model: [block.conv2.norm.gain for s in model.stages for block in s.blocks]
    opened = eqx.tree_at(gains, model, [jnp.ones_like(gain) for gain in gains(model)])
    images = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
    measure = jax.jit(signal_propagation)
    by_batch = measure(opened, images)
    # Squeeze-excite halves what batch norm has brought to a variance of one.
    np.testing.assert_allclose(by_batch.residual_variance, 0.25, rtol=0.1)
    by_average = measure(opened, images, opened.initial_statistics())
    assert not np.allclose(by_batch.variance, by_average.variance, rtol=0.1)


class TestCommand:
    def test_it_prints_and_draws(self, tmp_path, capsys):
        picture = tmp_path / "signal.svg"
        arguments = ["inspect", "model", "nfnet_nano", "--image-size", "16", "--images", "2"]
        assert main([*arguments, "--output", str(picture)]) == 0
        assert "1.1" in capsys.readouterr().out
        assert "residual branch variance" in picture.read_text()
        assert main([*arguments, "--skip-gain", "0", "--output", "", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["places"] == ["stem", "1.1", "2.1", "3.1", "4.1"]
        assert record["expected_variance"] == [1] * 5  # closed branches
        assert len(record["variance"]) == 5 == len(record["residual_variance"]) + 1

    def test_it_says_what_it_cannot_do(self, capsys):
        assert main(["inspect", "model", "nfnet_nan0"]) == 1
        assert "nfnet_nano" in capsys.readouterr().err
        assert main(["inspect", "model", "nfnet_nano", "--images", "0"]) == 1
        assert "must be at least 1" in capsys.readouterr().err


def test_a_figure_has_a_line_for_each_and_crosses_for_what_is_expected(nano):
    model, signal = nano
    places = block_places(model)
    figure = plot_signal(
        {"a": signal, "b": signal}, places, expected={"ledger": expected_signal(model)}
    )
    mean, variance, residual = figure.axes
    assert [len(axes.lines) for axes in (mean, variance, residual)] == [2, 3, 2]
