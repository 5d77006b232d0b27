"""Training with a state that is split over a mesh is training."""

import functools as ft
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import nfx
from nfx._tree import leaves_by_path
from nfx.aot import collectives, compile_step
from nfx.augment import Augmentation
from nfx.checkpoint import CheckpointStore
from nfx.data import Batch
from nfx.graph import channel_rules, is_split, split_channels, stack_blocks, whole_blocks
from nfx.optim import nfnet_sgd
from nfx.sharding import (
    abstract_mesh,
    batch_spec,
    Communication,
    FULLY_SHARDED,
    make_mesh,
    partition_specs,
    place_batch,
    REPLICATED,
    Rule,
)
from nfx.train import (
    abstract_state,
    create_state,
    make_evaluation_step,
    make_train_step,
    plan_step,
    plan_tables,
    Preprocessing,
    shard_model,
    state_shardings,
    state_specs,
    StepOptions,
)
from tests import planted


# One block each, with every width of groups that there is. NF-ResNets have no groups, and leave
# an axis "model" idle.
_MODELS = {
    "NFNet": {"name": "nfnet_nano", "widths": (512,), "group_width": 128},
    "NF-ResNet": {"name": "nf_resnet50", "widths": (64,)},
    "NF-RegNet": {"name": "nf_regnet_b0", "widths": (32,)},
}
IMAGE = (16, 16, 3)
PREPROCESSING = Preprocessing((0.5,), (0.25,), Augmentation(flip=True, mixup_alpha=0.2))
OPTIMIZER = nfnet_sgd(0.1, clipping=0.02, ema=0.9)


def build(family, **overrides):
    row = {"depths": (1,), "strides": (2,), **_MODELS[family], **overrides}
    return nfx.create_model(
        row.pop("name"), num_classes=8, key=jax.random.key(0), stochastic_depth_rate=0.3,
        drop_rate=0.1, **row,
    )  # fmt: skip


def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, *IMAGE), np.uint8)
    return Batch(images, rng.integers(0, 8, 16).astype(np.int32))


def mesh_of(shape, axis_type=AxisType.Auto):
    count = int(np.prod(list(shape.values())))
    return make_mesh(shape, jax.devices()[:count], axis_type=axis_type)


def gradients_of(gradients, model, step):
    return {f"gradient of {path}": leaf for path, leaf in leaves_by_path(gradients).items()}


@ft.cache
def first_state(family):
    return jax.device_get(create_state(lambda: build(family), OPTIMIZER, mesh_of({"data": 1})))


def three_steps(family, mesh):
    """The metrics of the first step, with all gradients, and the state after three."""
    state = first_state(family)
    with jax.set_mesh(mesh):
        state = jax.device_put(state, state_shardings(state, mesh, model=state.model))
        step = make_train_step(OPTIMIZER, PREPROCESSING, mesh, gradients_of)
        examples = place_batch(batch(), mesh)
        first = None
        for _ in range(3):
            state, metrics = step(state, examples, jax.random.key(1))
            first = first or jax.device_get(metrics)
        return first, leaves_by_path(jax.device_get(state))


@ft.cache
def on_one_device(family):
    return three_steps(family, mesh_of({"data": 1}))


def expect_close(actual, expected, rtol=1e-5):
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        error = np.max(np.abs(np.asarray(actual[path], np.float64) - value), initial=0)
        assert error <= rtol * np.max(np.abs(value), initial=1e-30), path


MESHES = [
    {"data": 8},
    {"fsdp": 8},
    {"model": 2},
    {"data": 4, "model": 2},
    {"model": 2, "fsdp": 4},
    {"data": 2, "fsdp": 4},
    {"data": 2, "fsdp": 2, "model": 2},
]
named = lambda shape: ",".join(f"{axis}={size}" for axis, size in shape.items())


# The mesh with all axes, and fully sharded, are never left out. Those with "model" and one more are
# on one Python; the others, whose axes are all in those, on request.
CASES = [
    pytest.param(shape, family, id=f"{family}-{named(shape)}", marks=marks)
    for shape in MESHES
    for family in _MODELS
    for quick in [shape == MESHES[-1] or (shape, family) == (MESHES[1], "NFNet")]
    for pair in [len(shape) == 2 and "model" in shape and family == "NFNet"]
    for marks in [[] if quick else [pytest.mark.slow if pair else pytest.mark.long]]
]


@pytest.mark.parametrize(("shape", "family"), CASES)
def test_losses_gradients_and_states_are_those_of_one_device(shape, family):
    metrics, state = three_steps(family, mesh_of(shape))
    expected_metrics, expected = on_one_device(family)
    expect_close(metrics, expected_metrics)
    expect_close(state, expected)


@pytest.mark.parametrize(
    ("shape", "family"),
    [
        pytest.param(*case.values, id=case.id, marks=marks)
        for case in CASES
        if case.values[1] == "NFNet" or case.values[0] == MESHES[-1]
        for all_axes in [case.values[0] == MESHES[-1]]
        for other in [[pytest.mark.slow if all_axes else pytest.mark.long]]
        for marks in [[] if case.values == (MESHES[-1], "NFNet") else other]
    ],
)
def test_so_they_are_in_explicit_mode(shape, family):
    metrics, state = three_steps(family, mesh_of(shape, AxisType.Explicit))
    expected_metrics, expected = on_one_device(family)
    expect_close(metrics, expected_metrics)
    expect_close(state, expected)


def test_stacked_blocks_are_split_as_their_blocks_are():
    build_deep = lambda: build("NFNet", depths=(3,), strides=(1,))
    plain = jax.eval_shape(build_deep)
    stacked = jax.eval_shape(lambda: stack_blocks(build_deep()))
    sizes = MESHES[-1]
    mesh = abstract_mesh(sizes)
    of_block = leaves_by_path(state_specs(plain, mesh))["stages/0/blocks/1/conv2/weight"]
    of_stack = leaves_by_path(state_specs(stacked, mesh))["stages/0/blocks/1/block/conv2/weight"]
    assert of_block == P(None, None, "model", "fsdp")
    assert of_stack == P(None, *of_block)
    split = split_channels(stacked, "model", 2)
    assert is_split(split.stages[0].blocks[1].block)
    blocks = jax.eval_shape(lambda stack: stack.blocks, split.stages[0].blocks[1])
    assert [is_split(block) for block in blocks] == [True, True]


def gradient_program(model, mesh, communication=Communication()):
    """The compiled gradient of a batch's mean loss."""

    def local(model, images, labels):
        logits = jax.vmap(model)(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        axes = tuple(axis for axis in mesh.axis_names if axis != "model")
        return jax.lax.pmean(jnp.mean(losses), axes)

    split = NamedSharding(mesh, batch_spec(mesh))
    place = lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to)
    model = jax.tree.map(place, model, state_shardings(model, mesh))
    images = jax.ShapeDtypeStruct((16, *IMAGE), jnp.float32, sharding=split)
    labels = jax.ShapeDtypeStruct((16,), jnp.int32, sharding=split)
    loss = shard_model(
        local, mesh, communication=communication, in_specs=(batch_spec(mesh),) * 2, out_specs=P()
    )
    return jax.jit(jax.value_and_grad(loss)).lower(model, images, labels).compile().as_text()


def planned(plan):
    sizes = {}
    for expected in plan.collectives:
        sizes[expected.kind] = sizes.get(expected.kind, 0) + expected.bytes
    return sizes


@pytest.mark.parametrize("family", ["NFNet", "NF-RegNet"])
@pytest.mark.parametrize("shape", [MESHES[0], MESHES[1], MESHES[2], MESHES[-1]], ids=named)
def test_what_devices_send_is_what_was_planned(shape, family):
    """To the byte: no activation is gathered, and no gradient reduced twice."""
    mesh = mesh_of(shape)
    state = abstract_state(lambda: build(family), OPTIMIZER)
    plan = plan_step(state, abstract_mesh(shape), IMAGE, 16)
    found = collectives(gradient_program(state.model, mesh))
    assert {each.kind: each.bytes for each in found} == planned(plan)
    if "fsdp" in shape:
        gathered = next(each for each in plan.collectives if each.kind == "all-gather")
        assert gathered.number == next(c.number for c in found if c.kind == "all-gather")


def test_dtypes_between_devices_are_a_choice():
    shape = {"data": 2, "fsdp": 4}
    half = Communication("bfloat16", "bfloat16")
    plan = ft.partial(
        plan_step, abstract_state(lambda: build("NF-ResNet"), OPTIMIZER), abstract_mesh(shape),
        IMAGE, 16,
    )  # fmt: skip
    whole, halved = planned(plan()), planned(plan(StepOptions(communication=half)))
    assert halved["all-gather"] * 2 == whole["all-gather"]
    assert halved["reduce-scatter"] * 2 == whole["reduce-scatter"]
    assert (halved["all-reduce"] - 4) * 2 == whole["all-reduce"] - 4
    mesh = mesh_of(shape)
    text = gradient_program(jax.eval_shape(lambda: build("NF-ResNet")), mesh, half)
    # On CPUs XLA computes in float32 what it was told to reduce in bfloat16.
    assert "bf16" in text


def test_each_device_keeps_its_share_of_the_state():
    mesh = mesh_of({"fsdp": 8})
    state = create_state(lambda: build("NFNet"), OPTIMIZER, mesh)
    leaves = jax.tree.leaves(state)
    whole = sum(leaf.nbytes for leaf in leaves)
    own = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    plan = plan_step(state, mesh, IMAGE, 16)
    assert (whole, own) == (plan.bytes, plan.bytes_per_device)
    step = make_train_step(OPTIMIZER, PREPROCESSING, mesh)
    report = compile_step(step, state, place_batch(batch(), mesh), jax.random.key(0)).report
    examples = sum(x.nbytes for x in batch()) // 8
    assert report.memory.arguments <= own + examples + 64
    assert report.memory.aliased >= own - 64


@pytest.mark.parametrize(
    ("name", "overhead", "whole"),
    [
        ("nfnet_f0", 1.02, []),
        ("nfnet_f6", 1.02, []),
        ("nf_resnet50", 1.02, []),
        ("nf_regnet_b0", 1.25, ["stages/3/blocks/0/conv_shortcut/weight"]),  # 156 to 330 channels
    ],
)
def test_published_models_are_split_evenly(name, overhead, whole):
    build_model = lambda: nfx.create_model(name, key=jax.random.key(0))
    plan = plan_step(
        abstract_state(build_model, OPTIMIZER), abstract_mesh({"fsdp": 8}), (32, 32, 3), 8
    )
    assert plan.bytes_per_device <= plan.bytes / 8 * overhead
    large = [leaf.path for leaf in plan.large_whole_leaves if leaf.path.startswith("model/")]
    assert large == [f"model/{path}" for path in whole]


def test_a_step_keeps_to_a_table_of_ones_own():
    build_small = lambda: build("NFNet", widths=(16,), group_width=8)
    own = (Rule("weight", (P("data"), P())), Rule(".*", (P(),)))
    states = []
    for size, rules in ((1, FULLY_SHARDED), (8, own)):
        mesh, optimizer = mesh_of({"data": size}), optax.sgd(0.1)
        state = create_state(build_small, optimizer, mesh, rules=rules)
        step = make_train_step(optimizer, PREPROCESSING, mesh, options=StepOptions(rules=rules))
        states.append(step(state, place_batch(batch(), mesh), jax.random.key(1))[0])
    kernel = states[1].model.stages[0].blocks[0].conv0.weight
    assert kernel.sharding.spec == P(None, None, None, "data")
    expected, found = (leaves_by_path(jax.device_get(state)) for state in states)
    expect_close(found, expected)


def test_a_checkpoint_is_restored_onto_another_mesh(tmp_path):
    first, second = mesh_of({"fsdp": 8}), mesh_of({"data": 2, "model": 2})
    saved = create_state(lambda: build("NF-RegNet"), OPTIMIZER, first)
    with CheckpointStore(tmp_path) as store:
        store.save(0, saved)
        store.wait()
        like = abstract_state(lambda: build("NF-RegNet"), OPTIMIZER, second)
        restored = store.restore(like)
    for old, new, shape in zip(*map(jax.tree.leaves, (saved, restored, like)), strict=True):
        np.testing.assert_array_equal(old, new)
        assert new.sharding == shape.sharding


def test_evaluation_counts_the_same_on_any_mesh():
    counts = []
    for shape in ({"data": 1}, MESHES[-1]):
        mesh = mesh_of(shape)
        state = create_state(lambda: build("NFNet"), OPTIMIZER, mesh)
        step = make_evaluation_step(PREPROCESSING, mesh)
        counts.append(jax.device_get(step(state.ema, None, place_batch(batch(), mesh))))
    assert counts[0].correct == counts[1].correct
    np.testing.assert_allclose(counts[0].loss, counts[1].loss, rtol=1e-5)
    assert counts[1].examples == 16


def plain_step(model, images, labels):
    """As a user writes it: no `shard_map`, no word of a mesh."""

    def loss(model):
        logits = jax.vmap(model)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, gradients = jax.value_and_grad(loss)(model)
    clip = nfx.optim.adaptive_grad_clip(0.02, exclude=("head/weight",))
    return value, clip.update(gradients, clip.init(model), model)[0], gradients


def user_call(model, mesh):
    """The step of a user, jitted, with the batch split over the first axis of a mesh."""
    images = jax.random.normal(jax.random.key(1), (16, *IMAGE))
    labels = jnp.arange(16) % 8
    with jax.set_mesh(mesh):
        images, labels = jax.device_put((images, labels), NamedSharding(mesh, P("data")))
        model = jax.device_put(model, NamedSharding(mesh, P()))
        step = jax.jit(lambda *arguments: plain_step(*arguments))
        return leaves_by_path(jax.device_get(step(model, images, labels)))


def test_users_call_model_loss_and_clipping_under_their_own_mesh():
    """With an axis that is idle, which is what the partitioner gets wrong."""
    model = first_state("NFNet").model
    expected = user_call(model, mesh_of({"data": 1}))
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        expect_close(user_call(model, mesh_of({"data": 4, "model": 2}, axis_type)), expected)


def test_the_comparison_sees_what_the_partitioner_does_to_grouped_convolutions():
    model = first_state("NFNet").model
    with mock.patch("nfx.nn._conv.convolve", planted.grouped_convolution):
        jax.clear_caches()
        expected = user_call(model, mesh_of({"data": 1}))
        found = user_call(model, mesh_of({"data": 4, "model": 2}))
    jax.clear_caches()
    # Clipping hides it, as it hides any multiple of a gradient that it clips.
    with pytest.raises(AssertionError, match="conv1"):
        expect_close(found, expected)
    wrong = "2/stages/0/blocks/0/conv1/weight"
    np.testing.assert_allclose(found[wrong], 2 * expected[wrong], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [{"data": 2, "fsdp": 1, "model": 1}, {"fsdp": 2, "model": 2}])
def test_a_second_step_is_not_compiled_again(shape):
    """What a step returns is what it takes, and an axis of one splits nothing."""
    mesh = mesh_of(shape)
    state = create_state(lambda: build("NF-ResNet"), OPTIMIZER, mesh)
    step = make_train_step(OPTIMIZER, PREPROCESSING, mesh)
    for _ in range(2):
        state, _ = step(state, place_batch(batch(), mesh), jax.random.key(0))
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", ["nfnet_f0", "nf_regnet_b0", "resnet50"])
def test_no_leaf_is_weakly_typed(name):
    model = jax.eval_shape(lambda: nfx.create_model(name, key=jax.random.key(0)))
    assert not [path for path, leaf in leaves_by_path(model).items() if leaf.weak_type]


@pytest.mark.slow  # two models, compiled twice
@pytest.mark.parametrize("name", ["nfnet_nano", pytest.param("resnet50", marks=pytest.mark.long)])
def test_two_gradients_a_step_and_batch_norm_are_as_on_one_device(name):
    optimizer = nfx.optim.sharpness_aware(nfnet_sgd(0.1, clipping=None), 0.05)
    depths = (
        {"depths": (1,), "widths": (32,), "strides": (1,)}
        if name == "nfnet_nano"
        else {"depths": (1,) * 4}
    )
    build_model = lambda: nfx.create_model(name, num_classes=8, key=jax.random.key(0), **depths)
    states = []
    for shape in ({"data": 1}, {"fsdp": 2, "model": 2}):
        mesh = mesh_of(shape)
        state = create_state(build_model, optimizer, mesh)
        step = make_train_step(optimizer, PREPROCESSING, mesh)
        state, _ = step(state, place_batch(batch(), mesh), jax.random.key(1))
        states.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.model)]))
    assert np.linalg.norm(states[1] - states[0]) <= 1e-5 * np.linalg.norm(states[0])


def test_axes_that_split_nothing_are_named():
    state = abstract_state(lambda: build("NF-ResNet"), OPTIMIZER)
    idle = lambda **shape: plan_step(state, abstract_mesh(shape), IMAGE, 14).idle_axes
    assert idle(model=2) == ("model",)
    assert idle(fsdp=7, model=2) == ("fsdp", "model")
    assert idle(fsdp=2) == idle(data=2) == ()


def test_rules_split_one_axis_over_the_batch():
    state = abstract_state(lambda: build("NF-ResNet"), OPTIMIZER)
    for spec in (P("fsdpp"), P("model"), P("data", "fsdp")):
        rules = (Rule("head/weight", (spec,)), *REPLICATED)
        with pytest.raises(ValueError, match=r"'head/weight' has the spec .* one axis of an array"):
            state_specs(state.model, abstract_mesh({"fsdp": 2}), rules)


def test_numbers_between_devices_are_floating_point():
    mesh = mesh_of({"data": 2})
    with pytest.raises(ValueError, match="gather_dtype='int8' must be 'float32', 'bfloat16'"):
        gradient_program(
            jax.eval_shape(lambda: build("NF-ResNet")), mesh,
            Communication()._replace(gather_dtype="int8"),
        )  # fmt: skip


def test_a_batch_that_does_not_divide_is_not_planned():
    state = abstract_state(lambda: build("NF-ResNet"), OPTIMIZER)
    with pytest.raises(ValueError, match="batch of 12 images does not divide into 8"):
        plan_step(state, abstract_mesh({"data": 8}), IMAGE, 12)


def test_rules_are_strict():
    model = jax.eval_shape(lambda: build("NF-ResNet"))
    with pytest.raises(ValueError, match=r"No rule says how 'stem/0/weight' is split"):
        partition_specs(model, {"fsdp": 2}, (Rule("head/weight", (P(),)),))
    with pytest.raises(
        ValueError, match=r"'head/bias'.*its axis 0 of 8 does not divide over fsdp=3"
    ):
        partition_specs(model, {"fsdp": 3}, (Rule("head/bias", (P("fsdp"),)), *REPLICATED))
    with pytest.raises(ValueError, match=r"'head/bias'.*has 2 entries and the leaf 1 axes"):
        partition_specs(model, {"fsdp": 2}, (Rule("head/bias", (P("fsdp", None),)), *REPLICATED))


def test_rules_prefer_what_divides_and_ignore_axes_that_are_not_there():
    tree = {"a": {"weight": jax.ShapeDtypeStruct((6, 8), jnp.float32)}}
    specs = lambda **sizes: partition_specs(tree, sizes, FULLY_SHARDED)["a"]["weight"]
    assert specs(fsdp=4) == P(None, "fsdp")
    assert specs(fsdp=3) == P("fsdp")
    assert specs(fsdp=5) == P()
    assert specs(data=4) == P()
    channels = (Rule("a/weight", (P("model"),)),)
    both = partition_specs(tree, {"model": 2, "fsdp": 4}, channels, FULLY_SHARDED)
    assert both["a"]["weight"] == P(None, ("model", "fsdp"))


def test_blocks_that_cannot_be_split_are_whole_and_the_plan_says_why():
    model = jax.eval_shape(lambda: nfx.create_model("nfnet_f0", key=jax.random.key(0)))
    plan = plan_step(
        abstract_state(lambda: nfx.create_model("nfnet_f0", key=jax.random.key(0)), OPTIMIZER),
        abstract_mesh({"model": 2}), (32, 32, 3), 8,
    )  # fmt: skip
    assert plan.whole_blocks == {"stages/0/blocks/0": "its groups (1) do not divide over 2"}
    assert len(whole_blocks(model, 4)) == 12
    assert "model/final_conv/weight" in {leaf.path for leaf in plan.large_whole_leaves}
    assert channel_rules(model, "model", 4) == (Rule(".*", (P(),)),)


def test_plans_are_printed(capsys):
    from rich.console import Console

    state = abstract_state(lambda: build("NFNet"), OPTIMIZER)
    plan = plan_step(state, abstract_mesh({"fsdp": 2, "model": 2}), IMAGE, 16)
    Console(width=120).print(*plan_tables(plan), sep="\n")
    printed = capsys.readouterr().out
    assert "stages/0/blocks/0/conv2/weight" in printed
    assert "-, -, model, fsdp" in printed
    assert "activations of split blocks" in printed
    assert "reduce-scatter" in plan.to_json()


def test_an_axis_of_one_device_splits_nothing_of_any_leaf():
    rules = (Rule(".*", (P("fsdp"),)),)
    scalar = {"x": jax.ShapeDtypeStruct((), jnp.float32)}
    assert partition_specs(scalar, {"data": 2, "fsdp": 1}, rules) == {"x": P()}
    with pytest.raises(ValueError, match="has 1 entries and the leaf 0 axes"):
        partition_specs(scalar, {"fsdp": 2}, rules)
