"""Building models: the table of variants, its overrides, and what all networks have."""

import dataclasses
import functools as ft
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfx
from nfx._tree import leaves_by_path, parameter_count
from nfx.models import model_variant, NFNetVariant
from tests.reference import create_abstract, every_model, official_model, tiny_overrides


SMALL = ["nfnet_nano", "nfnet_micro"]
TINY = ft.partial(create_abstract, "nfnet_f0", **tiny_overrides())


def test_models_are_listed_by_pattern():
    assert nfx.list_models("nfnet_f0*") == ["nfnet_f0", "nfnet_f0+"]
    assert len(nfx.list_models("timm/*")) == 36
    assert len(set(nfx.list_models())) == len(nfx.list_models()) > 70


@pytest.mark.xdist_group("every model")  # traced once, by one worker
@pytest.mark.parametrize("name", every_model(others=pytest.mark.slow))
def test_every_leaf_is_an_inexact_array_with_known_units(name):
    model = create_abstract(name)
    assert all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(model))
    nfx.unit_axes(model)


@pytest.mark.parametrize("name", SMALL)
def test_small_models_do_not_throw_a_small_image_away(name):
    variant = model_variant(name)
    assert np.prod(variant.stem_strides) == 2
    model = create_abstract(name, in_channels=1, num_classes=10)
    features = jax.eval_shape(
        lambda model, image: model.features(image),
        model,
        jax.ShapeDtypeStruct((28, 28, 1), jnp.float32),
    )
    assert features.stem.shape[:2] == (14, 14)
    assert parameter_count(model) < 600_000


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (dict(widths=(256, 512, 1024, 2048)), "stages/3/blocks/0/conv2/weight"),
        (dict(two_convs=False), "stages/0/blocks/0/conv1b/weight"),
        (dict(squeeze_excite_ratio=None), "stages/0/blocks/0/attention/fc0/weight"),
        (dict(big_width=False, group_width=64), "stages/1/blocks/0/conv0/weight"),
    ],
)
def test_rows_of_the_ablation_change_the_graph(overrides, changed):
    before, after = (leaves_by_path(create_abstract("nfnet_f0", **o)) for o in ({}, overrides))
    shape = lambda leaves: leaves[changed].shape if changed in leaves else None
    assert shape(before) != shape(after)


@pytest.mark.parametrize("overrides", [dict(alpha=0.5), dict(activation="relu")])
def test_rows_of_the_ablation_change_the_function(overrides):
    overrides = dict(num_classes=10, **overrides)
    image = jax.random.normal(jax.random.key(0), (32, 32, 3))
    run = jax.jit(lambda model: model(image))
    logits = [
        run(official_model("nfnet_f0", **{**tiny_overrides(), **o}))
        for o in (dict(num_classes=10), overrides)
    ]
    assert not np.allclose(*logits, atol=1e-3)


def test_every_field_of_the_table_is_an_override():
    for field in dataclasses.fields(NFNetVariant):
        value = getattr(model_variant("nfnet_f1"), field.name)
        assert getattr(model_variant("nfnet_f0", **{field.name: value}), field.name) == value


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("nfnet_f9", {}, "Unknown model 'nfnet_f9'. Did you mean 'nfnet_f"),
        ("resnet", {}, "Unknown model 'resnet'. "),
        ("nfnet_f0", {"dropout": 0.1}, "'nfnet_f0' has no field 'dropout'. "),
        ("nfnet_f0", {"drop_rates": 0.1}, "Did you mean 'drop_rate'"),
        ("nfnet_f0", {"activation": "swish"}, "activation='swish' is not one"),
        ("nfnet_f0", {"activation": "glu"}, "activation='glu' is not one"),
        ("nfnet_f0", {"depths": (1, 2)}, "must have one entry a stage"),
        ("nfnet_f0", {"stem_strides": (2, 2)}, "one entry more than"),
        ("nfnet_f0", {"group_width": 512}, "less than one group of group_width=512"),
        ("nfnet_f0", {"strides": (1, 4, 2, 1)}, "must be 1 or 2"),
        (
            "nfnet_f0",
            {"group_width": 0},
            "group_width=0, channel_multiple=1, expansion=0.5",
        ),
        ("nf_resnet50", {"expansion": -1.0}, "expansion=-1.0, first_expansion=None"),
        ("resnet50", {"squeeze_excite_ratio": 0.0}, "squeeze_excite_ratio=0.0 must be positive"),
        ("nfnet_f0", {"drop_rate": 1.5}, "drop_rate=1.5 and stochastic_depth_rate=0.25 must be in"),
        ("nfnet_f0", {"num_classes": 0}, "num_classes=0 and in_channels=3 must be positive"),
    ],
)
def test_models_that_cannot_be_are_refused(name, overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        create_abstract(name, **overrides)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((8, 32, 32, 3), jnp.float32, r"got shape (8, 32, 32, 3). For a batch: jax.vmap(model)"),
        ((32, 32), jnp.float32, r"got shape (32, 32)."),
        ((32, 32, 1), jnp.float32, r"create_model(..., in_channels=1)"),
        ((3, 32, 32), jnp.float32, r"Channels come last"),
        ((32, 32, 3), jnp.uint8, r"got dtype uint8. Convert and normalize first"),
    ],
)
def test_models_refuse_what_is_not_one_image(shape, dtype, message):
    with pytest.raises(ValueError, match="one floating-point image of shape") as error:
        jax.eval_shape(TINY(), jax.ShapeDtypeStruct(shape, dtype))
    assert message in str(error.value)


def test_the_classifier_starts_small_and_branches_start_closed(key):
    model = jax.jit(
        lambda: nfx.create_model("nfnet_f0", num_classes=10, key=key, **tiny_overrides())
    )()
    assert float(jnp.std(model.head.weight)) == pytest.approx(0.01, rel=0.05)
    blocks = [block for stage in model.stages for block in stage.blocks]
    assert all(float(block.skip_gain) == 0 for block in blocks)
    kernel = model.stages[0].blocks[0].conv1.weight
    assert float(jnp.std(kernel)) == pytest.approx(1 / np.sqrt(9 * 16), rel=0.05)


def test_a_key_makes_dropout_and_stochastic_depth_random(key):
    model = official_model("nfnet_f0", num_classes=10, **tiny_overrides())
    image = jax.random.normal(key, (32, 32, 3))
    keys = jax.random.split(key, 16)
    logits = jax.jit(jax.vmap(lambda k: model(image, key=k)))(keys)
    assert len(np.unique(np.asarray(logits)[:, 0])) > 4
    again = jax.jit(lambda k: model(image, key=k))(keys[3])
    np.testing.assert_allclose(again, logits[3], atol=1e-5)


def test_an_example_does_not_see_its_batch(key):
    model = official_model("nfnet_f0", num_classes=10, **tiny_overrides())
    images = jax.random.normal(key, (4, 32, 32, 3))
    others = images.at[1:].set(jnp.flip(images[1:]) * 7)
    run = jax.jit(jax.vmap(model))
    np.testing.assert_array_equal(run(images)[0], run(others)[0])


def test_branches_keep_the_variance_that_the_ledger_expects(key):
    """At initialization, with open branches: alpha^2 more a block. Pooling would shrink noise."""
    from nfx.analysis import signal_propagation

    model = jax.jit(lambda: nfx.create_model(
        "nfnet_f0", num_classes=10, key=key, depths=(1, 3, 2), widths=(64, 128, 192),
        strides=(1, 1, 1), stem_widths=(32,), stem_strides=(1, 1), group_width=32,
        squeeze_excite_ratio=None, skip_gain=1.0, alpha=0.5,
    ))()  # fmt: skip
    signal = jax.jit(signal_propagation)(model, jax.random.normal(key, (8, 16, 16, 3)))
    depth = [index for stage in (1, 3, 2) for index in range(stage)]
    expected = 1 + 0.25 * (np.asarray(depth) + 1)
    np.testing.assert_allclose(signal.variance[1:], expected, rtol=0.25)
    np.testing.assert_allclose(signal.residual_variance, 1, rtol=0.25)
