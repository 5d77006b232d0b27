from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

import nfx
from nfx._tree import leaves_by_path, mask_by_path, parameter_count, path_matches
from tests.reference import create_abstract, tiny_overrides


def test_leaves_have_one_name():
    paths = list(leaves_by_path(create_abstract("nfnet_f0", **tiny_overrides())))
    assert "stem/0/weight" in paths
    assert "stages/1/blocks/1/conv1b/gain" in paths
    assert "stages/2/blocks/0/attention/fc1/bias" in paths
    assert "stages/3/blocks/0/skip_gain" in paths
    assert paths[-2:] == ["head/weight", "head/bias"]


@pytest.mark.parametrize(
    ("path", "pattern", "matches"),
    [
        ("head/weight", "head/weight", True),
        ("opt_state/0/trace/head/weight", "head/weight", True),
        ("overhead/weight", "head/weight", False),
        ("head/weight/scale", "head/weight", False),
        ("stages/0/blocks/0/skip_gain", "gain", False),
        ("stages/0/blocks/0/conv0/gain", "gain", True),
        ("stages/0/blocks/0/conv0/gain", r"blocks/\d+/conv0/.*", True),
    ],
)
def test_patterns_match_whole_components_at_the_end(path, pattern, matches):
    assert path_matches(path, pattern) is matches
    assert path_matches(path, ["nothing", pattern]) is matches


def test_counts_and_masks_abstract_leaves():
    tree = {"a": jax.ShapeDtypeStruct((3, 4), jnp.float32), "b": {"bias": jnp.zeros(5)}}
    assert parameter_count(tree) == 17
    assert mask_by_path(tree, "bias") == {"a": False, "b": {"bias": True}}


def axes(tree, **kwargs):
    units = nfx.unit_axes(tree, **kwargs)
    assert jax.tree.structure(tree).flatten_up_to(units) == [
        *leaves_by_path_of_tuples(units).values()
    ]
    return leaves_by_path_of_tuples(units)


def leaves_by_path_of_tuples(units):
    flat = jax.tree_util.tree_leaves_with_path(units, is_leaf=lambda x: isinstance(x, tuple) and (
        all(isinstance(i, int) for i in x)))  # fmt: skip
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in flat}


def test_kernels_keep_their_last_axis_and_vectors_are_one_unit():
    block = create_abstract("nfnet_f0", **tiny_overrides()).stages[0].blocks[0]
    found = axes(block)
    assert found["conv1/weight"] == (-1,)
    assert found["conv1/gain"] == found["conv1/bias"] == found["skip_gain"] == ()
    assert found["attention/fc0/weight"] == (-1,)
    assert len(found) == len(jax.tree.leaves(block))


def test_layers_of_equinox_have_their_outputs_first(key):
    layers = {
        "linear": eqx.nn.Linear(3, 4, key=key),
        "conv": eqx.nn.Conv2d(3, 4, 3, key=key),
        "norm": eqx.nn.LayerNorm(4),
    }
    found = axes(eqx.filter(layers, eqx.is_inexact_array))
    assert found["linear/weight"] == found["conv/weight"] == (0,)
    assert found["linear/bias"] == found["conv/bias"] == found["norm/weight"] == ()


def test_a_module_declares_its_fields_and_its_subclasses_inherit():
    class Scale(eqx.Module):
        unit_axes: ClassVar = {"weight": (0, -1)}
        weight: Array

    class Child(Scale):
        pass

    assert axes([Child(jnp.ones((2, 3)))]) == {"0/weight": (0, -1)}


def test_overrides_come_first():
    tree = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    assert axes(tree, overrides={"w": (1,), "b": ()}) == {"w": (1,), "b": ()}


def test_an_undeclared_array_is_an_error_that_names_them_all():
    with pytest.raises(ValueError, match="Nobody declares the units") as error:
        nfx.unit_axes({"w": jnp.ones((2, 3)), "inner": [jnp.ones(3)]})
    assert "w  (2, 3)" in str(error.value)
    assert "inner/0  (3,)" in str(error.value)
