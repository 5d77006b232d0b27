"""What a mesh must not change."""

import functools as ft
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import nfx
from nfx.augment import Augmentation, example_keys
from nfx.data import Batch
from nfx.optim import nfnet_sgd
from nfx.sharding import (
    batch_spec,
    check_batch_divides,
    local_example_indices,
    make_mesh,
    parse_mesh_shape,
    place_batch,
    prefetch_batches,
)
from nfx.sharding._mesh import _arranged
from nfx.train import create_state, make_train_step, Preprocessing


def mesh_of(count, **shape):
    return make_mesh(shape or {"data": count}, jax.devices()[:count])


NANO = ft.partial(
    nfx.create_model, "nfnet_nano", num_classes=5, in_channels=1, key=jax.random.key(0),
    depths=(2,), widths=(32,), strides=(1,), group_width=8, two_convs=False,
    squeeze_excite_ratio=None, stochastic_depth_rate=0.9,
)  # fmt: skip
MIXED = Augmentation(flip=True, mixup_alpha=0.2, cutmix=True)


def batch_of(count):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 8, 1), np.uint8)
    return Batch(images, rng.integers(0, 5, count).astype(np.int32))


def masks_on(mesh, count, rate=0.5):
    """Which of `count` examples lose a branch, as the train step draws it."""
    drop = nfx.nn.StochasticDepth(rate)

    def local(ones, key):
        keys = example_keys(key, 7, local_example_indices(mesh, ones.shape[0]))
        return jax.vmap(lambda key, x: drop(x, key=key))(keys, ones)

    split = batch_spec(mesh)
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(split, P()), out_specs=split)
    return np.asarray(jax.jit(sharded)(jnp.ones(count), jax.random.key(3)))


def test_masks_differ_between_examples_and_not_between_meshes_or_batch_sizes():
    eight = masks_on(mesh_of(1), 8)
    assert set(eight) == {0.0, 1.0}
    for mesh in (mesh_of(4), mesh_of(8, data=2, fsdp=2, model=2), mesh_of(8, fsdp=4, model=2)):
        np.testing.assert_array_equal(masks_on(mesh, 8), eight)
    one = masks_on(mesh_of(1), 1)
    np.testing.assert_array_equal(one, eight[:1])
    np.testing.assert_array_equal(masks_on(mesh_of(4), 64)[:8], eight)


def test_steps_and_indices_have_their_own_randomness():
    keys = lambda step: jax.random.key_data(example_keys(jax.random.key(0), step, jnp.arange(4)))
    assert len(np.unique(np.concatenate([keys(0), keys(1)]), axis=0)) == 8


def test_generators_that_depend_on_the_mesh_are_refused():
    with pytest.raises(ValueError, match="draw other numbers on another mesh"):
        example_keys(jax.random.key(0, impl="rbg"), 0, jnp.arange(4))


def three_steps(mesh, augmentation=MIXED):
    optimizer = nfnet_sgd(0.1, clipping=0.02, ema=0.9)
    state = create_state(NANO, optimizer, mesh)
    preprocessing = Preprocessing((0.5,), (0.25,), augmentation)
    step = make_train_step(optimizer, preprocessing, mesh)
    for _ in range(3):
        state, metrics = step(state, place_batch(batch_of(8), mesh), jax.random.key(1))
    return jax.device_get((state, metrics))


def test_a_mesh_changes_nothing_but_rounding():
    """Flip, MixUp, CutMix, dropout and stochastic depth included."""
    one, one_metrics = three_steps(mesh_of(1))
    four, four_metrics = three_steps(mesh_of(4, data=4, fsdp=1, model=1))
    np.testing.assert_allclose(four_metrics["loss"], one_metrics["loss"], rtol=1e-5)
    for ours, theirs in ((four.model, one.model), (four.ema, one.ema)):
        flat = [
            np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (ours, theirs)
        ]
        assert np.linalg.norm(flat[0] - flat[1]) < 1e-5 * np.linalg.norm(flat[1])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"batch": 4}, "axes among data, fsdp, model; got {'batch': 4}"),
        ({}, "axes among"),
        ({"data": 3}, "needs 3 devices, and there are 8 (cpu)"),
        ({"data": -8, "fsdp": -1}, "must be positive"),
    ],
)
def test_meshes_that_do_not_fit_the_devices_are_refused(shape, message):
    with pytest.raises(ValueError, match="mesh") as error:
        make_mesh(shape)
    assert message in str(error.value)


def test_meshes_are_written_as_text():
    assert parse_mesh_shape("data=4", 8) == {"data": 4}
    assert parse_mesh_shape("data=all", 8) == {"data": 8}
    assert parse_mesh_shape("data=all,fsdp=2", 8) == {"data": 4, "fsdp": 2}


@pytest.mark.parametrize(
    "text", ["", "data", "data=x", "data=2,data=4", "data=all,fsdp=all", "data=-1"]
)
def test_text_that_is_no_mesh_is_refused(text):
    with pytest.raises(ValueError, match="Cannot read the mesh"):
        parse_mesh_shape(text, 8)


def test_all_leaves_no_device_out():
    with pytest.raises(ValueError, match=r"no whole number of the 8 devices for 'all'"):
        parse_mesh_shape("data=all,fsdp=3", 8)


def test_a_batch_must_divide_over_the_devices():
    check_batch_divides(mesh_of(4), 8)
    with pytest.raises(ValueError, match="batch of 6 images does not divide into 4 parts"):
        check_batch_divides(mesh_of(4), 6)


def test_the_axis_data_goes_over_slices():
    """Of two slices of four devices; what is next to each other on other axes is in one of them."""
    kind = {"platform": "cpu", "device_kind": "cpu", "process_index": 0}
    devices = [SimpleNamespace(slice_index=number // 4, **kind) for number in range(8)]
    arranged = _arranged({"fsdp": 2, "data": 4}, devices)
    slices = np.vectorize(lambda device: device.slice_index)(arranged)
    assert arranged.shape == (2, 4)
    np.testing.assert_array_equal(slices, [[0, 0, 1, 1]] * 2)
    with pytest.raises(ValueError, match="'data' goes over them: its size must be a multiple of 2"):
        _arranged({"fsdp": 8}, devices)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_batches_are_placed_ahead_of_their_use(ahead):
    mesh, asked = mesh_of(4), []

    def batches():
        for number in range(6):
            asked.append(number)
            yield np.full((8, 2), number)

    for number, placed in enumerate(prefetch_batches(batches(), mesh, ahead=ahead)):
        assert placed.sharding.spec == batch_spec(mesh)
        np.testing.assert_array_equal(placed, number)
        assert len(asked) == min(number + 1 + ahead, 6)
    assert number == 5


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_what_a_batch_raises_is_raised_in_its_place(ahead):
    """As if nothing were placed ahead: a run trains, and saves, up to a bad image."""

    def batches():
        yield np.zeros((8, 2))
        yield np.ones((8, 2))
        raise ValueError("a bad image")

    placed = prefetch_batches(batches(), mesh_of(4), ahead=ahead)
    np.testing.assert_array_equal(next(placed), 0)
    np.testing.assert_array_equal(next(placed), 1)
    with pytest.raises(ValueError, match="a bad image"):
        next(placed)
