"""Names of leaves, patterns of names, and which axes index the units of each leaf."""

import inspect
import re
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

import nfx
from nfx._tree import leaves_by_path, mask_by_path, parameter_count, path_matches
from nfx._units import EQUINOX_LAYERS, tensor_axes
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


EQUINOX = {
    "linear": lambda key: eqx.nn.Linear(3, 4, key=key),
    "scalar": lambda key: eqx.nn.Linear("scalar", "scalar", key=key),
    "conv1": lambda key: eqx.nn.Conv1d(2, 4, 3, groups=2, key=key),
    "conv2": lambda key: eqx.nn.Conv2d(2, 4, 3, groups=2, key=key),
    "conv3": lambda key: eqx.nn.Conv3d(2, 4, 3, key=key),
    "transposed1": lambda key: eqx.nn.ConvTranspose1d(2, 4, 3, key=key),
    "transposed2": lambda key: eqx.nn.ConvTranspose2d(2, 4, 3, groups=2, key=key),
    "transposed3": lambda key: eqx.nn.ConvTranspose3d(2, 4, 3, key=key),
    "embedding": lambda key: eqx.nn.Embedding(4, 3, key=key),
    "gru": lambda key: eqx.nn.GRUCell(3, 4, key=key),
    "lstm": lambda key: eqx.nn.LSTMCell(3, 4, key=key),
    "attention": lambda key: eqx.nn.MultiheadAttention(2, 4, use_output_bias=True, key=key),
    "mlp": lambda key: eqx.nn.MLP(3, 4, 5, 2, key=key),
    "layer_norm": lambda key: eqx.nn.LayerNorm((4, 5)),
    "rms_norm": lambda key: eqx.nn.RMSNorm(4),
    "group_norm": lambda key: eqx.nn.GroupNorm(2, 4),
    "batch_norm": lambda key: eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "n", mode="batch")[0],
    "prelu": lambda key: eqx.nn.PReLU(),
    "weight_norm": lambda key: eqx.nn.WeightNorm(eqx.nn.Linear(3, 4, key=key)),
    "spectral_norm": lambda key: eqx.nn.make_with_state(eqx.nn.SpectralNorm)(
        eqx.nn.Linear(3, 4, key=key), "weight", key=key
    )[0],
}

# Axes of the matrices and kernels; all else is one unit.
OUTPUTS_FIRST = {"weight_ih", "weight_hh", "weight"}


@pytest.mark.slow
@pytest.mark.parametrize("name", EQUINOX)
def test_layers_of_equinox_have_their_outputs_first_and_so_have_stacks_of_them(name, key):
    layer = eqx.filter(EQUINOX[name](key), eqx.is_inexact_array)
    found = axes(layer)
    for path, units in found.items():
        matrix = path.split("/")[-1] in OUTPUTS_FIRST and "norm" not in path
        matrix = matrix and not name.endswith(
            ("layer_norm", "rms_norm", "group_norm", "batch_norm")
        )
        assert units == ((0,) if matrix else ())
    if "batch" in name or "spectral" in name:
        return  # their state cannot be stacked
    stacked = eqx.filter_vmap(EQUINOX[name])(jax.random.split(key, 3))
    stacked_units = axes(eqx.filter(stacked, eqx.is_inexact_array))
    for path, units in found.items():
        assert stacked_units[path] in ([(0, 1)] if units else [(0,)]), path


# Layers without parameters of their own, or only with such as other layers hold.
WITHOUT_PARAMETERS = {
    "AvgPool", "MaxPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "Pool", "AdaptivePool", "Dropout",
    "Identity", "Lambda", "Sequential", "MLP", "Shared", "MultiheadAttention", "SpectralNorm",
    "RotaryPositionalEmbedding", "StateIndex", "StatefulLayer",
}  # fmt: skip


def test_every_layer_of_equinox_is_known():
    layers = {
        name: kind
        for name, kind in vars(eqx.nn).items()
        if inspect.isclass(kind) and issubclass(kind, eqx.Module)
    }
    known = {
        name for name, kind in layers.items() if any(b in EQUINOX_LAYERS for b in kind.__mro__)
    }
    unknown = {re.sub(r"[123]d$", "", name) for name in layers.keys() - known}
    assert unknown <= WITHOUT_PARAMETERS


def test_a_slope_a_channel_is_a_unit_each():
    assert axes(eqx.nn.PReLU(jnp.ones(4))) == {"negative_slope": (0,)}


@pytest.mark.parametrize("depth", [1, 2])
def test_stacks_of_blocks_are_known_by_their_rank(depth, key):
    build = lambda key: nfx.create_model("nfnet_nano", key=key).stages[1].blocks[0]
    block = jax.eval_shape(build, key)
    stack, keys = build, jax.random.split(key, (2, 3)[:depth])
    for _ in range(depth):
        stack = jax.vmap(stack)
    stacked = axes(jax.eval_shape(stack, keys))
    for path, units in axes(block).items():
        assert stacked[path] == (*range(depth), *units)


def test_a_module_declares_its_fields_and_its_subclasses_inherit():
    class Scale(eqx.Module):
        unit_axes: ClassVar = {"weight": "head i o -> head o"}
        weight: Array

    class Child(Scale):
        pass

    assert axes([Child(jnp.ones((2, 3, 4)))]) == {"0/weight": (0, -1)}
    assert axes([Child(jnp.ones((5, 2, 3, 4)))]) == {"0/weight": (0, 1, -1)}
    with pytest.raises(
        ValueError, match="0/weight  \\(3, 4\\) is declared as 'head i o -> head o'"
    ):
        nfx.unit_axes([Child(jnp.ones((3, 4)))])


def test_overrides_come_first():
    tree = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    assert axes(tree, overrides={"w": (1,), "b": ()}) == {"w": (1,), "b": ()}
    assert axes(tree, overrides={"w": "i o -> o", "b": "o -> o"}) == {"w": (-1,), "b": (0,)}
    layer = nfx.nn.Linear(2, 3, key=jax.random.key(0))
    assert axes(layer, overrides={"bias": "o -> o"}) == {"weight": (-1,), "bias": (0,)}


def test_a_subclass_adds_to_what_it_inherits(key):
    class Tempered(eqx.nn.Linear):
        unit_axes: ClassVar = {"temperature": "->"}
        temperature: Array

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.temperature = jnp.ones(())

    found = axes(eqx.filter(Tempered(2, 3, key=key), eqx.is_inexact_array))
    assert found == {"weight": (0,), "bias": (), "temperature": ()}


def test_axes_without_names_are_no_declaration():
    class Old(eqx.Module):
        unit_axes: ClassVar = {"weight": (-1,)}
        weight: Array

    with pytest.raises(ValueError, match=r"\(-1,\).* of 'weight' in Old"):
        nfx.unit_axes(Old(jnp.ones((2, 3))))


def test_an_override_names_every_axis_or_says_that_there_may_be_more():
    kernel = {"kernel": jnp.ones((3, 3, 4, 8))}
    with pytest.raises(ValueError, match="is declared as 'i o -> o'"):
        nfx.unit_axes(kernel, overrides={"kernel": "i o -> o"})
    assert axes(kernel, overrides={"kernel": "... i o -> o"}) == {"kernel": (0, 1, -1)}


def test_a_normed_weight_of_a_layer_nobody_knows_is_named(key):
    class Mine(eqx.Module):
        weight: Array

    layer = eqx.nn.WeightNorm(Mine(jnp.ones((4, 3))))
    with pytest.raises(ValueError, match="Nobody declares"):
        nfx.unit_axes(eqx.filter(layer, eqx.is_inexact_array))
    overrides = {"g": (), "weight": (0,)}
    assert axes(eqx.filter(layer, eqx.is_inexact_array), overrides=overrides)["g"] == ()


@pytest.mark.parametrize("text", ["i o", "i i -> i", "i o -> x", "", "(-1,)"])
def test_what_is_no_layout_is_refused(text):
    with pytest.raises(ValueError, match="Cannot read the layout"):
        nfx.unit_axes(jnp.ones((2, 3)), overrides={"": text})


def test_tensors_are_one_unit_each_but_those_of_a_stack(key):
    stack = jax.vmap(lambda key: nfx.nn.Linear(2, 3, key=key))(jax.random.split(key, 4))
    units = tensor_axes({"plain": jnp.ones((2, 3)), "stack": stack})
    assert units["plain"] == ()
    assert units["stack"].weight == units["stack"].bias == (0,)


def test_an_undeclared_array_is_an_error_that_names_them_all():
    with pytest.raises(ValueError, match="Nobody declares the units") as error:
        nfx.unit_axes({"w": jnp.ones((2, 3)), "inner": [jnp.ones(3)]})
    assert "w  (2, 3)" in str(error.value)
    assert "inner/0  (3,)" in str(error.value)
