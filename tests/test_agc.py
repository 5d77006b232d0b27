"""AGC: the reference's outputs, other implementations, and what is around the clipping.

Its laws are in `test_laws.py`.
"""

import re
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfx
from nfx.models import NFBlock
from nfx.optim import (
    adaptive_grad_clip,
    AGC_PRESETS,
    clip_telemetry,
    clip_unitwise,
    clipped_leaves,
    describe,
    nfnet_sgd,
    OFFICIAL_GROUPS,
    sharpness_aware,
    unitwise_norm,
    warmup_cosine,
)
from nfx.testing import check_clipping, check_sharding_invariant, CLIPPING_LAWS, LawViolation
from tests import planted
from tests.reference import create_abstract, load_golden, tiny_overrides


# Presets leave out what these trees do not have.
NO_HEAD = pytest.mark.filterwarnings("ignore:adaptive_grad_clip clips what it may be meant")


def clip(transform, gradients, params):
    return transform.update(gradients, transform.init(params), params)[0]


def golden_units(arrays):
    """The official rule guesses from the rank; it reads HWIO and IO, and vectors whole."""

    def guess(x):
        if np.squeeze(x).ndim <= 1:
            return ()
        return (1, 2) if x.ndim == 3 else (-1,)

    return {name: guess(x) for name, x in arrays.items()}


def section(golden, prefix):
    names = [name for name in golden if name.startswith(f"{prefix}/")]
    return {name.removeprefix(f"{prefix}/"): jnp.asarray(golden[name]) for name in names}


def test_clipping_is_that_of_the_golden_file_to_the_last_digit():
    golden = load_golden("agc")
    params, gradients = section(golden, "param"), section(golden, "grad")
    units = golden_units(params)
    for name, norms in section(golden, "unitnorm").items():
        actual = unitwise_norm(params[name], units[name])
        np.testing.assert_array_max_ulp(np.ravel(actual), np.ravel(norms), 1)
    for index, (clipping, eps) in enumerate(golden["configs"]):
        transform = adaptive_grad_clip(float(clipping), float(eps), units=units)
        clipped = clip(transform, gradients, params)
        for name, expected in section(golden, f"clipped{index}").items():
            np.testing.assert_array_max_ulp(clipped[name], np.asarray(expected), 1)


def test_equals_optax_where_optax_is_right(key):
    tree = {"hwio": (3, 3, 4, 6), "io": (5, 7), "vector": (6,)}
    keys = dict(zip(tree, jax.random.split(key, 3), strict=True))
    params = {name: jax.random.normal(keys[name], shape) for name, shape in tree.items()}
    gradients = jax.tree.map(lambda p: jnp.flip(p) * 0.03, params)
    ours = adaptive_grad_clip(0.02, units={"hwio": (-1,), "io": (-1,), "vector": ()})
    updates = [clip(t, gradients, params) for t in (ours, optax.adaptive_grad_clip(0.02))]
    jax.tree.map(np.testing.assert_array_equal, *updates)


# Where optax is wrong: layouts with the outputs first, and stacks


TREES = {
    "Conv2d of Equinox": lambda key: eqx.nn.Conv2d(2, 3, 2, key=key),
    "Linear of Equinox": lambda key: eqx.nn.Linear(3, 2, key=key),
    "stack of blocks": lambda key: jax.vmap(_block)(jax.random.split(key, 2)),
}


def _block(key):
    variant = nfx.models.model_variant("nfnet_nano", group_width=2, squeeze_excite_ratio=None)
    return NFBlock(variant, 4, 4, key=key)


@pytest.mark.parametrize("name", TREES)
def test_units_are_those_of_the_closed_form(name, key):
    tree = eqx.filter(TREES[name](key), eqx.is_inexact_array)
    laws = ("closed form", "bound", "identity", "locality", "range")
    assert check_clipping(adaptive_grad_clip(0.01), like=tree, laws=laws, examples=50) == laws


@pytest.mark.parametrize("name", TREES)
def test_optax_is_refuted_by_a_counterexample_one_can_read(name, key):
    with pytest.raises(LawViolation) as violation:
        check_clipping(optax.adaptive_grad_clip(0.01), like=TREES[name](key))
    message = str(violation.value)
    assert message.startswith("Law 'closed form': the result is that of equation 3 of arXiv")
    for part in ("Leaf '", "units on ", "unit ", "gradient ", "parameter ", "clipped "):
        assert part in message


@pytest.mark.parametrize("preset", AGC_PRESETS)
def test_presets_are_lawful_for_their_own_units(preset):
    arguments = {**AGC_PRESETS[preset], "exclude": ("matrix/.*",)}
    tree = nfx.testing._clipping_subject.example_tree()
    units = arguments["units"](eqx.filter(tree, eqx.is_inexact_array))
    assert "closed form" in check_clipping(
        adaptive_grad_clip(**arguments), units=units, exclude=arguments["exclude"], eps=1e-3,
        clipping=arguments["clipping"], laws=("closed form", "identity", "locality"), examples=50,
    )  # fmt: skip


@NO_HEAD
def test_the_presets_are_the_implementations(key):
    """The example of the gain, for which they differ: official and timm's numbers."""
    gain = nfx.nn.WSConv2d(2, 4, 1, key=key)
    gain = eqx.tree_at(lambda c: c.gain, gain, jnp.asarray([1, 0.5, 2, 1]))
    gradient = jax.tree.map(jnp.zeros_like, gain)
    gradient = eqx.tree_at(lambda c: c.gain, gradient, jnp.asarray([0.1, 0.001, 0.1, 0]))
    clipped = {
        name: clip(adaptive_grad_clip(**preset), gradient, gain).gain
        for name, preset in AGC_PRESETS.items()
    }
    np.testing.assert_allclose(clipped["deepmind"], [0.017677, 0.000177, 0.017677, 0], rtol=2e-3)
    np.testing.assert_allclose(clipped["timm"], [0.01, 0.001, 0.02, 0], rtol=1e-5)
    assert clipped["tensor"][0] == pytest.approx(0.1)


# Arguments


def test_one_entry_of_units_serves_a_subtree():
    params = {"a": {"x": jnp.ones((2, 3)), "y": jnp.ones((4, 5))}, "b": jnp.ones(3)}
    gradients = jax.tree.map(lambda x: jnp.cumsum(x, axis=0), params)
    prefix = adaptive_grad_clip(0.01, units={"a": (-1,), "b": ()})
    full = adaptive_grad_clip(0.01, units={"a": {"x": (-1,), "y": (-1,)}, "b": ()})
    updates = [clip(t, gradients, params) for t in (prefix, full)]
    jax.tree.map(np.testing.assert_array_equal, *updates)


def test_a_pattern_that_leaves_nothing_out_is_told():
    layer = eqx.nn.Linear(2, 3, key=jax.random.key(0))
    with pytest.warns(UserWarning, match="'wieght' matches none of the 2 leaves"):
        adaptive_grad_clip(0.01, exclude=("bias", "wieght")).init(layer)


def test_excluded_leaves_are_left_alone_and_not_counted():
    abstract = create_abstract("nfnet_f0", num_classes=10, **tiny_overrides())
    model = jax.tree.map(lambda x: jnp.ones(x.shape), abstract)
    gradients = jax.tree.map(lambda x: 1e3 * x, model)
    transform = adaptive_grad_clip(0.01, exclude=("head/weight",))

    @jax.jit
    def run(gradients, model):
        counts = clip_telemetry(gradients, model, clipping=0.01, exclude=("head/weight",))
        everything = clip_telemetry(gradients, model, clipping=0.01)
        return clip(transform, gradients, model), counts, everything

    clipped, counts, everything = run(gradients, model)
    np.testing.assert_array_equal(clipped.head.weight, gradients.head.weight)
    assert jnp.all(clipped.head.bias < gradients.head.bias)
    assert float(counts.share) == float(everything.share) == 1
    assert everything.units - counts.units == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clipping": 0.0}, "needs clipping > 0 and eps > 0"),
        ({"clipping": -1.0}, "needs clipping > 0 and eps > 0"),
        ({"clipping": 0.01, "eps": 0.0}, "needs clipping > 0 and eps > 0"),
        ({"clipping": 0.01, "nonfinite": "skip"}, "'propagate', 'zero_unit', 'zero_step'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(Exception, match=message):  # by run-time types too
        adaptive_grad_clip(**arguments)


def test_parameters_and_their_units_are_needed():
    transform = adaptive_grad_clip(0.01, units={"w": ()})
    with pytest.raises(ValueError, match=r"call optimizer\.update"):
        transform.update({"w": jnp.ones(3)}, transform.init({"w": jnp.ones(3)}))
    with pytest.raises(ValueError, match="Nobody declares the units"):
        adaptive_grad_clip(0.01).init({"w": jnp.ones(3)})


def test_units_can_be_the_tree_of_a_module_that_can_be_called(key):
    layer = nfx.nn.Linear(2, 3, key=key)
    gradient = jax.tree.map(lambda p: jnp.flip(p) + 1, layer)
    updates = [
        clip(adaptive_grad_clip(0.01, units=units), gradient, layer)
        for units in (None, nfx.unit_axes, nfx.unit_axes(layer))
    ]
    for update in updates[1:]:
        jax.tree.map(np.testing.assert_array_equal, update, updates[0])


@pytest.mark.parametrize("axes", ["i o -> o", -1, (3,), (1, -1), [1]])
def test_units_that_are_no_axes_are_refused_by_name(axes):
    with pytest.raises(ValueError, match=r"units of 'w', of shape \(2, 3\), are given as"):
        adaptive_grad_clip(0.01, units=lambda params: {"w": axes}).init({"w": jnp.ones((2, 3))})


def test_the_ratio_may_follow_a_schedule(key):
    params, units = {"w": jnp.ones((3, 2))}, {"w": (-1,)}
    make = optax.inject_hyperparams(adaptive_grad_clip, static_args=("units", "exclude"))
    schedule = lambda step: 0.01 * (1.0 + step.astype(jnp.float32))
    transform = make(clipping=schedule, units=lambda params: units)
    state, gradients = transform.init(params), {"w": jnp.ones((3, 2))}
    for number in range(3):
        updates, state = jax.jit(transform.update)(gradients, state, params)
        np.testing.assert_allclose(updates["w"], 0.01 * (1 + number), rtol=1e-5)


@NO_HEAD
def test_maps_over_optimizer_states_treat_the_state_as_empty(key):
    layer = nfx.nn.Linear(2, 3, key=key)
    optimizer = nfnet_sgd(0.1)
    state = optimizer.init(layer)
    doubled = optax.tree_utils.tree_map_params(optimizer, lambda x: 2 * x, state)
    ours, twice = nfx.optim.ema_parameters(state), nfx.optim.ema_parameters(doubled)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(2 * a, b), ours, twice)


def test_a_tiny_floor_clips_to_it():
    transform = adaptive_grad_clip(0.01, 1e-6, units=(-1,))
    gradients = jnp.asarray([[5e-9, 1e-7, 0.0]])
    params = jnp.zeros((1, 3))
    clipped = clip(transform, gradients, params)
    np.testing.assert_allclose(clipped, [[5e-9, 1e-8, 0]], rtol=1e-5)
    telemetry = clip_telemetry(gradients, params, clipping=0.01, eps=1e-6, units=(-1,))
    assert telemetry.clipped.tolist() == [1]
    laws = ("closed form", "identity", "bound", "zeros")
    check_clipping(lambda clipping: adaptive_grad_clip(clipping, 1e-6), eps=1e-6, laws=laws)
    transform = adaptive_grad_clip(0.01, 1e-25, units=(-1,))
    clipped = clip(transform, jnp.full((1, 1), 1e6), jnp.full((1, 1), 10.0))
    np.testing.assert_allclose(clipped, 0.1, rtol=1e-5)


def test_complex_units_have_their_absolute_norm():
    gradient = jnp.asarray([[3 + 4j, 0], [0, 1]], jnp.complex64)
    np.testing.assert_allclose(unitwise_norm(gradient, (-1,)), [[5, 1]])
    clipped = clip_unitwise(gradient, jnp.ones_like(gradient), (-1,), clipping=0.01)
    np.testing.assert_allclose(jnp.abs(clipped[0, 0]), 0.01 * 2**0.5, rtol=1e-5)
    assert clipped.dtype == jnp.complex64


# What is not finite


def bad_gradient():
    params = {"w": jnp.ones((2, 3)), "v": jnp.ones(2)}
    gradients = {"w": jnp.asarray([[1, jnp.nan, 5], [1, 1, jnp.inf]]), "v": jnp.ones(2)}
    return gradients, params


@pytest.mark.parametrize(
    ("policy", "bad", "good"),
    [("propagate", None, 0.01), ("zero_unit", 0, 0.01), ("zero_step", 0, 0)],
)
def test_the_policy_for_what_is_not_finite(policy, bad, good):
    gradients, params = bad_gradient()
    units = {"w": (-1,), "v": ()}
    transform = adaptive_grad_clip(0.01, units=units, nonfinite=policy)
    clipped = jax.jit(lambda *args: clip(transform, *args))(gradients, params)
    np.testing.assert_allclose(jnp.linalg.norm(clipped["w"][:, 0]), good * 2**0.5, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(clipped["v"]), good * 2**0.5, rtol=1e-5)
    if bad is None:
        assert not np.any(np.all(np.isfinite(clipped["w"][:, 1:]), axis=0))
    else:
        np.testing.assert_array_equal(clipped["w"][:, 1:], bad)
    telemetry = clip_telemetry(gradients, params, clipping=0.01, units=units, nonfinite=policy)
    assert telemetry.nonfinite.tolist() == [0, 2]


def test_an_excluded_leaf_can_zero_the_step_too():
    gradients, params = bad_gradient()
    transform = adaptive_grad_clip(
        0.01, units={"w": (-1,), "v": ()}, exclude=("w",), nonfinite="zero_step"
    )
    clipped = clip(transform, gradients, params)
    assert all(jnp.all(x == 0) for x in jax.tree.leaves(clipped))


def test_a_step_is_skipped_altogether_by_optax():
    gradients, params = bad_gradient()
    optimizer = optax.apply_if_finite(
        optax.chain(
            adaptive_grad_clip(0.01, units={"w": (-1,), "v": ()}),
            optax.add_decayed_weights(0.1),
            optax.sgd(0.1, momentum=0.9),
        ),
        max_consecutive_errors=5,
    )
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    assert all(jnp.all(x == 0) for x in jax.tree.leaves(updates))


# Telemetry


def test_telemetry_counts_the_units_that_change():
    params = {"w": jnp.ones((2, 4)), "b": jnp.ones(3)}
    scales = jnp.asarray([1, 0.001, 1, 0.001])
    gradients = {"w": jnp.ones((2, 4)) * scales, "b": jnp.zeros(3)}
    telemetry = jax.jit(
        lambda g, p: clip_telemetry(g, p, clipping=0.01, units={"w": (-1,), "b": ()})
    )(gradients, params)
    assert [leaf.path for leaf in telemetry.leaves] == ["b", "w"]
    assert telemetry.clipped.tolist() == [0, 2]
    assert telemetry.share_of_leaf.tolist() == [0, 0.5]
    assert telemetry.units == 5
    assert float(telemetry.share) == pytest.approx(2 / 5)
    np.testing.assert_allclose(telemetry.largest_ratio, [0, 1], rtol=1e-6)


def test_telemetry_of_nothing_is_zero():
    telemetry = clip_telemetry({}, {}, clipping=0.01)
    assert (telemetry.units, float(telemetry.share)) == (0, 0)


# Descriptions


def test_describe_says_what_happens_to_each_leaf():
    model = create_abstract("nfnet_f0", num_classes=10, **tiny_overrides())
    optimizer = nfnet_sgd(warmup_cosine(1.6, steps=100, warmup_steps=10))
    rows = {leaf.path: leaf for leaf in describe(optimizer, model).leaves}
    assert rows["head/weight"][2:] == (None, 0, True)
    assert rows["head/bias"][2:] == ((), 1, False)
    assert rows["stem/0/weight"][2:] == ((-1,), 16, True)
    assert rows["stages/0/blocks/0/skip_gain"][2:] == ((), 1, False)
    assert rows.keys() == nfx._tree.leaves_by_path(model).keys()
    text = str(describe("deepmind", model))
    lines = text.splitlines()
    assert lines[0].split() == ["leaf", "shape", "unit", "axes", "units", "clipped", "decayed"]
    assert "head/weight" in text
    assert "excluded" in text
    assert lines[-1] == (
        f"{sum(leaf.units for leaf in rows.values()):,} units in {len(rows) - 1} of {len(rows)} "
        "leaves are clipped; 0 leaves are decayed."
    )


@NO_HEAD
def test_describe_sees_through_masks_partitions_and_sam(key):
    layer = nfx.nn.Linear(2, 3, key=key)
    clipping = adaptive_grad_clip(0.01)
    masked = optax.masked(clipping, nfx._tree.mask_by_path(layer, "weight"))
    for optimizer in (
        optax.chain(masked, optax.adamw(1e-3, weight_decay=0)),
        nfx.optim.train_only(optax.chain(clipping, optax.sgd(0.1)), "weight"),
    ):
        with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"):
            warnings.simplefilter("ignore")
            rows = {leaf.path: leaf for leaf in describe(optimizer, layer).leaves}
        assert (rows["weight"].units, rows["bias"].units) == (3, 0)
    rows = describe(sharpness_aware(nfnet_sgd(0.1, weight_decay=0.1), 0.05), layer).leaves
    assert [leaf.decayed for leaf in rows] == [True, False]


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.lion(0.1), optax.rmsprop(0.1)])
def test_clipping_before_an_optimizer_that_divides_the_scale_out_is_a_warning(optimizer, key):
    layer = nfx.nn.Linear(2, 3, key=key)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes its count
        with pytest.warns(
            UserWarning, match="divides the scale of the gradient out again, as Adam"
        ):
            description = describe(optax.chain(adaptive_grad_clip(0.01), optimizer), layer)
        assert "divides the scale of the gradient out" in str(description)
        describe(optax.chain(optimizer, adaptive_grad_clip(0.01)), layer)  # no warning
        describe(optax.chain(adaptive_grad_clip(0.01), optax.sgd(0.1, 0.9)), layer)


def test_an_optimizer_that_divides_the_scale_out_of_other_leaves_is_no_warning(key):
    layer = nfx.nn.Linear(2, 3, key=key)
    parts = {
        "clipped": optax.chain(adaptive_grad_clip(0.01), optax.sgd(0.1)),
        "other": optax.adam(1),
    }
    labels = lambda params: eqx.tree_at(lambda x: (x.weight, x.bias), params, ("clipped", "other"))
    with jax.numpy_dtype_promotion("standard"):
        assert describe(optax.partition(parts, labels), layer).note == ""


def test_an_unknown_preset_is_named(key):
    with pytest.raises(ValueError, match=r"Unknown preset 'tim'. Did you mean 'timm'"):
        describe("tim", nfx.nn.Linear(2, 3, key=key))


def test_the_state_has_no_array_and_says_what_is_clipped(key):
    layer = nfx.nn.Linear(2, 3, key=key)
    state = adaptive_grad_clip(0.01, exclude=("bias",)).init(layer)
    assert jax.tree.leaves(state) == []
    assert [leaf.path for leaf in clipped_leaves(state)] == ["weight"]
    assert clipped_leaves(optax.sgd(0.1).init(layer)) == ()


# Where it runs


def test_runs_under_vmap_and_scan(key):
    params = nfx.nn.Linear(3, 4, key=key)
    gradients = jax.tree.map(
        lambda p: jax.random.normal(key, (5, *p.shape)) * 10.0 ** jnp.arange(-3.0, 2.0).reshape(
            -1, *[1] * p.ndim), params,
    )  # fmt: skip
    transform = adaptive_grad_clip(0.01)
    one = lambda gradients: clip(transform, gradients, params)
    mapped = jax.jit(jax.vmap(one))(gradients)
    _, scanned = jax.lax.scan(lambda _, g: (None, one(g)), None, gradients)
    looped = [one(jax.tree.map(lambda g, i=i: g[i], gradients)) for i in range(5)]
    expected = jax.tree.map(lambda *xs: jnp.stack(xs), *looped)
    for found in (mapped, scanned):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_runs_inside_shard_map(key):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = nfx.nn.Linear(3, 16, key=key)
    gradients = jax.tree.map(lambda p: jnp.flip(p) + 1, params)
    transform = adaptive_grad_clip(0.01, exclude=("bias",))
    specs = eqx.tree_at(
        lambda layer: (layer.weight, layer.bias), params, (jax.P(None, "data"), jax.P("data"))
    )  # units whole on their device
    local = jax.shard_map(
        lambda g, p: clip(transform, g, p), mesh=mesh, in_specs=(specs, specs), out_specs=specs
    )
    found, expected = jax.jit(local)(gradients, params), clip(transform, gradients, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


@pytest.mark.parametrize("policy", ["zero_unit", "zero_step"])
def test_policies_do_not_depend_on_the_sharding(policy, key):
    transform = adaptive_grad_clip(0.01, units=(-1,), nonfinite=policy)
    gradient, parameter = jax.random.normal(key, (2, 8, 16))
    gradient = gradient.at[3, 5].set(jnp.nan)
    check_sharding_invariant(lambda g, p: clip(transform, g, p), gradient, parameter)


def test_half_precision_keeps_its_dtype_and_small_scales():
    gradient = jnp.full((256, 4), 300.0, jnp.float16)
    clipped = clip_unitwise(gradient, jnp.full_like(gradient, 1e-4), (-1,), clipping=0.001)
    assert clipped.dtype == jnp.float16
    # The scale, 3e-10, is below the smallest float16; the product is not.
    np.testing.assert_allclose(clipped.astype(jnp.float32), 1e-7, atol=6e-8)


@pytest.mark.parametrize(
    "transform", [optax.identity(), optax.set_to_zero(), lambda clipping: optax.identity()]
)
def test_what_does_not_clip_is_no_clipper(transform):
    with pytest.raises(LawViolation, match="It does not clip"):
        check_clipping(transform)


def test_a_floor_above_one_is_lawful():
    laws = ("closed form", "identity")
    assert check_clipping(adaptive_grad_clip(0.01, 2.0), eps=2.0, laws=laws, examples=50) == laws


def test_a_floor_on_the_bound_is_not_taken_for_another_floor():
    """At one ratio it is one: the floor has to be said."""
    transform = planted.CLIPPERS["floor on the bound"](0.01)
    with pytest.raises(LawViolation, match="bound"):
        check_clipping(transform, laws=["bound"])


def test_numbers_that_break_a_law_are_shown_to_the_digit_that_does():
    transform = planted.CLIPPERS["eps added for floored"](0.01)
    with pytest.raises(LawViolation) as violation:
        check_clipping(transform, laws=["closed form"])
    expected, clipped = (
        re.search(rf"{name} +(\[.*?\])", str(violation.value)).group(1)
        for name in ("in float64 it is", "clipped ")
    )
    assert expected != clipped


def test_large_trees_are_drawn_from_seeds():
    like, laws = {"w": jnp.zeros((64, 64))}, ("closed form", "locality")
    transform = adaptive_grad_clip(0.01, units={"w": (-1,)})
    assert check_clipping(transform, like=like, units={"w": (-1,)}, laws=laws, examples=20) == laws


def test_what_raises_and_what_remembers_break_a_law():
    with pytest.raises(LawViolation, match="It raises TracerBoolConversionError"):
        check_clipping(planted.CLIPPERS["a branch on values in Python"](0.01))
    calls = []

    def forgetful(updates, state, params=None):
        calls.append(None)
        scale = 1e-4 if len(calls) % 2 else 1.0
        return jax.tree.map(lambda g: g * jnp.asarray(scale, g.dtype), updates), state

    transform = optax.GradientTransformation(lambda params: optax.EmptyState(), forgetful)
    with pytest.raises(LawViolation):
        check_clipping(transform, laws=["jit"], clipping=0.01, eps=1e-3)


def test_laws_are_named():
    with pytest.raises(ValueError, match=r"Unknown law .bounds.\. Did you mean .bound"):
        check_clipping(adaptive_grad_clip(0.01), laws=["bounds"])
    assert {"bound", "identity", "direction", "locality", "sharding"} <= CLIPPING_LAWS.keys()


def test_what_starts_at_zero_has_a_gradient_through_the_clipping():
    """As skip gains do; below the floor the bound does not depend on them."""
    clipped = lambda p: jnp.sum(clip_unitwise(jnp.ones(()), p, (), clipping=0.01))
    assert jax.grad(clipped)(jnp.zeros(())) == 0
    norm = lambda p: jnp.sum(unitwise_norm(p, (1,)))
    found = jax.grad(norm)(jnp.asarray([[3.0, 0.0], [4.0, 0.0]]))
    np.testing.assert_allclose(found, [[0.6, 0.0], [0.8, 0.0]], rtol=1e-6)
    assert jnp.isnan(jax.grad(norm)(jnp.asarray([[jnp.nan], [1.0]]))).any()


@pytest.mark.parametrize("clipping", [1e-5, 1e-4, 1.0])
def test_plain_descent_keeps_the_scale_whatever_the_clipping(clipping):
    optimizer = optax.chain(adaptive_grad_clip(clipping), optax.sgd(0.1))
    assert not describe(optimizer, nfx.nn.Linear(3, 2, key=jax.random.key(0))).note


def test_what_is_frozen_need_not_be_left_out_of_the_clipping():
    model = create_abstract("nfnet_nano", num_classes=10)
    groups = OFFICIAL_GROUPS._replace(trained=(r"stages/.*",))
    jax.eval_shape(nfnet_sgd(0.1, groups=groups).init, model)  # and no warning
