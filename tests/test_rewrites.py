"""Rewrites keep their laws, and planted ones do not."""

import dataclasses
import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
from nfx.testing import check_rewrite, LawViolation, REWRITE_LAWS
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


@pytest.mark.parametrize("name", ROWS)
def test_every_model_can_be_folded_and_stacked(name):
    """Both at once, which is what serves; each alone is checked below."""
    model = row_model(name)
    both = lambda model: fold(stack(model))
    assert check(both, model, unchanged="head/.*", laws=["outputs", "masks", "unchanged"])
    assert check(stack, model, inverse=unstack, laws=["round trip", "abstract"])
    stacks = [s for stage in stack(model).stages for s in stage.blocks if isinstance(s, Stack)]
    assert len(stacks) == (1 if ROWS[name].depths[1] == 3 else 0)
    if stacks:
        assert jax.tree.structure(both(model)) == jax.tree.structure(stack(fold(model)))


if __name__ == "__main__":
    print(len(ROWS), list(ROWS))
