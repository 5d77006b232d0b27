"""Rewrites keep their laws, and planted ones do not."""

import dataclasses
import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import nfx
from nfx._tree import leaves_by_path, parameter_count
from nfx.graph import (
    adapt_input_channels,
    cast,
    fold_weight_standardization,
    reset_classifier,
    stack_blocks,
    taps,
    unstack_blocks,
)
from nfx.models import model_variant, NFNet, NFNetVariant
from nfx.nn import Stack
from nfx.testing import check_rewrite, check_variance_ledger, LawViolation, REWRITE_LAWS
from nfx.testing._rewrites import moved, network_outputs
from nfx.weights import to_official, to_timm
from tests import planted
from tests.reference import create_abstract


def reduced(variant):
    """A row with its conventions and proportions, and as few channels and blocks as show them.

    The second stage has a block that projects and up to two that are alike.
    """
    if variant.family == "NF-RegNet":
        widths, stem_width, group_width = (12, 26), 12, variant.group_width
    else:
        share = 1 if variant.widths[0] <= 32 else 16
        widths = tuple(variant.widths[stage] // share for stage in (0, 2))
        stem_width = variant.stem_width and variant.stem_width // share
        group_width = variant.group_width and variant.group_width // share
    return dataclasses.replace(
        variant, depths=(1, min(variant.depths[2], 3)), widths=widths, stem_width=stem_width,
        strides=(variant.strides[0], variant.strides[2]), group_width=group_width,
        stem_widths=variant.stem_widths and (4,),
        stem_strides=variant.stem_strides[:1] + variant.stem_strides[1:][-1:],
        stochastic_depth_rate=0.5, drop_rate=0.5, train_size=16, test_size=16,
    )  # fmt: skip


def reduced_rows():
    """The names of every normalizer-free model, by reduced variant."""
    rows = {}
    for name in nfx.list_models():
        if isinstance(variant := model_variant(name), NFNetVariant):
            rows.setdefault(reduced(variant), []).append(name)
    return {names[0]: variant for variant, names in rows.items()}


ROWS = reduced_rows()


@ft.cache
def row_model(name):
    """A reduced model with parameters that hide nothing, drawn without compiling anything."""
    build = ft.partial(NFNet, ROWS[name], num_classes=5, in_channels=3, key=jax.random.key(0))
    generator = np.random.default_rng(0)

    def draw(leaf):
        deviation = 0.3 if leaf.ndim < 2 else leaf.shape[-1] / np.sqrt(np.prod(leaf.shape))
        values = generator.normal(size=leaf.shape) * deviation + (leaf.ndim < 2) * 0.5
        return jnp.asarray(values, leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(build))


IMAGE = (16, 16, 3)
check = ft.partial(check_rewrite, image_shape=IMAGE)
fold, stack, unstack = map(jax.jit, (fold_weight_standardization, stack_blocks, unstack_blocks))


def test_rows_are_of_every_family_lineage_and_attention():
    seen = {
        (row.family, row.standardization, row.padding, row.skip_gain is None, row.gelu)
        for row in ROWS.values()
    }
    every = {
        (row.family, row.standardization, row.padding, row.skip_gain is None, row.gelu)
        for row in map(model_variant, nfx.list_models())
        if isinstance(row, NFNetVariant)
    }
    assert seen == every
    assert any(row.efficient_channel_attention for row in ROWS.values())
    assert {row.attention_after for row in ROWS.values()} == {"conv1", "conv2"}


# The same structure as another.
ALIKE = {
    "nfnet_f0+", "nfnet_nano", "nfnet_micro", "timm/nfnet_l0", "timm/eca_nfnet_l1",
    "timm/nf_resnet26", "timm/nf_seresnet26", "timm/nf_ecaresnet26",
}  # fmt: skip
MARKS = dict.fromkeys(ALIKE, pytest.mark.long)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in ROWS])
def test_every_model_can_be_folded_and_stacked(name):
    """Both at once, with a key; each alone, and without a key, is checked below."""
    model = row_model(name)
    both = lambda model: fold(stack(model))
    assert check(both, model, unchanged="head/.*", laws=["masks", "unchanged"])
    assert check(stack, model, inverse=unstack, laws=["round trip", "abstract"])
    stacks = [s for stage in stack(model).stages for s in stage.blocks if isinstance(s, Stack)]
    assert len(stacks) == (1 if ROWS[name].depths[1] == 3 else 0)
    if stacks:
        assert jax.tree.structure(both(model)) == jax.tree.structure(stack(fold(model)))


# Each by itself, by every law

FOLD_LAWS = ("outputs", "half precision", "unchanged", "abstract")
REPRESENTATIVE = ("nfnet_f0", "timm/eca_nfnet_l0", "timm/nf_regnet_b0")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("nfnet_f0", marks=pytest.mark.long), "timm/nf_regnet_b0"]
)
def test_stacks_are_lawful(name):
    laws = check(stack, row_model(name), inverse=unstack, unchanged=r"(stem|head)/.*")
    assert laws == tuple(REWRITE_LAWS)


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_folds_are_lawful(name):
    model = row_model(name)
    laws = check(fold, model, unchanged="head/.*", laws=FOLD_LAWS)
    assert laws == FOLD_LAWS
    folded = fold(model)
    assert parameter_count(folded) < parameter_count(model)
    text = str(jax.make_jaxpr(folded)(jnp.zeros(IMAGE)))
    assert "rsqrt" not in text
    assert "rsqrt" in str(jax.make_jaxpr(model)(jnp.zeros(IMAGE)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [dict(remat="full"), dict(remat="convs"), dict(unroll=2)],
    ids=str,
)
def test_how_a_stack_is_run_changes_no_gradient(how):
    """In float64: in float32 a sum in another order is another by 1e-6, on some machines."""
    with jax.enable_x64(True):
        plain = stack(jax.tree.map(lambda x: x.astype(jnp.float64), row_model("timm/nf_regnet_b0")))
        other = lambda model: stack_blocks(model, **how)
        laws = ["gradients", "round trip"]
        assert check(other, plain, inverse=stack_blocks, rtol=1e-12, laws=laws)


@pytest.mark.parametrize("export", [to_official, to_timm])
def test_a_stack_is_exported_as_its_blocks(export):
    model = row_model("nfnet_f0")
    expected, found = export(model), export(stack(model))
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_units_of_a_stack_are_those_of_its_blocks():
    model = row_model("nfnet_f0")
    count = lambda model: sum(
        int(np.prod([leaf.shape[axis] for axis in axes]))
        for leaf, axes in zip(
            jax.tree.leaves(model), jax.tree.structure(model).flatten_up_to(nfx.unit_axes(model)),
            strict=True,
        )
    )  # fmt: skip
    assert count(stack(model)) == count(model)
    axes = leaves_by_path(stack(model))["stages/1/blocks/1/block/conv0/weight"]
    assert axes.shape[0] == 2
    units = nfx.unit_axes(stack(model)).stages[1].blocks[1].block
    assert (units.conv0.weight, units.conv0.gain, units.skip_gain) == ((0, -1), (0,), (0,))


# The other rewrites


def pooled(model, image, *, key):
    return model.features(image, key=key).pooled


def gray_images(model, image, *, key):
    """Outputs for an image whose channels are equal, as many as the model takes."""
    channels = model.stem[0].weight.shape[2]
    return model.features(jnp.tile(image[..., :1], (1, 1, channels)), key=key)


def tapped(model, image, *, key):
    """The outputs of a run that is looked into, at stacks too."""
    look = taps(model, [r"stem/\d+", r"stages/\d+/blocks/\d+"], call=network_outputs)
    return look(image, key=key)[0]


def test_other_rewrites_are_lawful():
    model, key = row_model("timm/nf_resnet50"), jax.random.key(1)
    reset = lambda model: reset_classifier(model, 7, key=key)
    laws = ["outputs", "unchanged", "abstract"]
    assert check(reset, model, outputs=pooled, unchanged=r"(stem|stages)/.*", laws=laws)
    gray = lambda model: adapt_input_channels(model, 1)
    unchanged = [r"(stages|head)/.*", "stem/0/bias"]
    assert check(gray, model, outputs=gray_images, unchanged=unchanged, laws=laws)
    assert check(lambda model: model, stack(model), outputs=tapped, laws=["outputs"])


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [r"stages/\d+/.*/weight", ".*/gain", ".*"])
def test_cast_changes_what_it_names(pattern):
    """Of any part, under strict promotion too; to halves and back loses what halves lose."""
    model = row_model("nfnet_f0")
    half = lambda model: cast(model, jnp.bfloat16, pattern)
    kept = [path for path, leaf in leaves_by_path(half(model)).items() if leaf.dtype == jnp.float32]
    assert len(kept) < len(leaves_by_path(model))
    assert check(half, model, unchanged=kept, laws=["unchanged", "abstract"])
    assert check(half, half(model), inverse=lambda model: model, laws=["round trip"])
    image = jnp.ones(IMAGE)
    run = jax.jit(lambda model: model(image))
    expected = run(model)
    for changed in (half(model), fold(half(model))):
        found = run(changed)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=0.05 * float(jnp.max(jnp.abs(expected))))


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        (lambda model: fold_weight_standardization(fold(model)), "folded already"),
        (lambda model: stack_blocks(model, unroll=0), "unroll=0 must be positive"),
        (lambda model: cast(model, jnp.bfloat16, "tail/.*"), r"'tail/\.\*' matches none of the"),
        (lambda model: cast(model, jnp.int32), "dtype=int32 must be floating-point"),
        (lambda model: check(stack, model, unchanged="tail"), "'tail' matches none of the"),
        (lambda model: check(stack, model, laws=["output"]), "Unknown law 'output'"),
    ],
)
def test_what_cannot_be_rewritten_is_refused(rewrite, message):
    with pytest.raises(ValueError, match=message):
        rewrite(row_model("nfnet_nano"))


@pytest.mark.parametrize("rewrite", [fold_weight_standardization, stack_blocks])
def test_batch_normalized_networks_are_refused(rewrite):
    refused = (ValueError, TypeCheckError)  # by the function, or before it by its annotations
    with pytest.raises(refused):
        rewrite(create_abstract("se_resnext_micro"))
    with pytest.raises(refused):
        stack_blocks(row_model("nfnet_nano"), remat="some")


def test_cast_leaves_what_is_not_floating_point():
    tree = {"steps": jnp.asarray(1001), "x": jnp.ones(2), "f": jnp.tanh}
    found = cast(tree, jnp.bfloat16)
    assert (found["steps"].dtype, int(found["steps"])) == (jnp.int32, 1001)
    assert (found["x"].dtype, found["f"]) == (jnp.bfloat16, jnp.tanh)
    with pytest.raises(ValueError, match="'steps' matches none of the 1 leaves"):
        cast(tree, jnp.bfloat16, "steps")


def test_a_model_without_stacks_is_unstacked_already():
    model = create_abstract("se_resnext_micro")
    assert unstack_blocks(model) is model


def test_a_folded_model_is_stacked_as_it_was():
    plain = create_abstract("nfnet_micro", depths=(1, 3, 6, 1))
    model = jax.eval_shape(lambda model: stack_blocks(model, unroll=4), plain)
    folded = jax.eval_shape(fold_weight_standardization, model)
    stacks = lambda model: [each for stage in model.stages for each in stage.blocks[1:]]
    unrolls = lambda model: [(stack.depth, stack.unroll) for stack in stacks(model)]
    assert unrolls(folded) == unrolls(model) == [(2, 2), (5, 4)]


def test_the_model_of_a_law_hides_nothing():
    model = create_abstract("nfnet_nano")
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model)
    assert all(float(jnp.max(jnp.abs(leaf))) > 0 for leaf in jax.tree.leaves(moved(zeros)))


def test_the_ledger_of_a_stack_is_that_of_its_blocks():
    model = planted.growing()
    check_variance_ledger(stack(model), images=4)


# Planted bugs


@pytest.mark.slow
@pytest.mark.parametrize("bug", planted.REWRITES)
def test_planted_bugs_break_their_law(bug):
    law, rewrite, how = planted.REWRITES[bug]
    with pytest.raises(LawViolation, match=f"Law '{law}'"):
        check(rewrite, row_model("nfnet_f0"), laws=[law], **how)
