import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfx.checkpoint import CheckpointError, CheckpointStore, leaf_digests, tree_digest


# Orbax leaves futures of a failed read behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state(scale=1.0):
    key = jax.random.key(0)
    return {
        "model": {"weight": scale * jax.random.normal(key, (64, 32)), "bias": jnp.zeros(3)},
        "step": jnp.asarray(4, jnp.int32),
    }


@pytest.fixture
def store(tmp_path):
    with CheckpointStore(tmp_path / "checkpoints", keep=2) as store:
        yield store
    gc.collect()  # so that they complain here, and not in another test


def test_what_comes_back_is_what_was_saved(store):
    for step in (1, 2, 3):
        store.save(step, state(step))
    store.wait()
    assert store.steps() == [2, 3]
    assert tree_digest(store.restore(state())) == tree_digest(state(3))
    assert tree_digest(store.restore(state(), step=2)) == tree_digest(state(2))


def test_a_checkpoint_explains_itself(store):
    store.save(1, state(), {"recipe": {"seed": 3}})
    store.wait()
    assert store.config(1) == {"recipe": {"seed": 3}}


def test_restores_to_the_sharding_that_is_asked_for(store):
    store.save(1, state())
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P())
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state()
    )
    restored = store.restore(like)
    assert restored["model"]["weight"].sharding == sharding
    assert tree_digest(restored) == tree_digest(state())


def test_a_missing_checkpoint_is_named(store):
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* it has no finished checkpoint"):
        store.restore(state())
    store.save(5, state())
    store.wait()
    with pytest.raises(CheckpointError, match=r"No checkpoint of step 7 in .* it has steps 5\."):
        store.restore(state(), step=7)


def test_a_checkpoint_of_another_model_is_refused(store):
    store.save(1, state())
    store.wait()
    for other in (state()["model"], {**state(), "extra": jnp.ones(2)},
                  {**state(), "step": jnp.zeros((3, 3))}):  # fmt: skip
        with pytest.raises(CheckpointError, match="of another model or of another version"):
            store.restore(other)


def damage(directory, step, change):
    data = max((directory / str(step) / "state").rglob("d/*"), key=lambda file: file.stat().st_size)
    data.write_bytes(change(data.read_bytes()))


def flip_bits(content):
    middle = len(content) // 2
    flipped = bytes(255 - byte for byte in content[middle : middle + 64])
    return content[:middle] + flipped + content[middle + 64 :]


@pytest.mark.parametrize("change", [flip_bits, lambda content: content[:100]])
def test_a_damaged_checkpoint_is_never_loaded(store, change):
    for step in (1, 2):
        store.save(step, state(step))
    store.wait()
    damage(store.directory, 2, change)
    with pytest.raises(CheckpointError, match=r"damaged.*fall back on an earlier one: 1"):
        store.restore(state())
    assert tree_digest(store.restore(state(), step=1)) == tree_digest(state(1))


def test_an_unfinished_checkpoint_does_not_exist(store, tmp_path):
    store.save(1, state())
    store.wait()
    (store.directory / "2.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with CheckpointStore(store.directory) as again:
        assert again.steps() == [1]


def test_digests_see_bits_dtypes_shapes_and_names():
    zero = {"w": np.zeros((2, 3), np.float32)}
    others = [
        {"w": np.asarray([[0, 0, 0], [0, 0, -0.0]], np.float32)},
        {"w": np.zeros((3, 2), np.float32)},
        {"w": np.zeros((2, 3), np.int32)},
        {"v": np.zeros((2, 3), np.float32)},
    ]
    assert tree_digest(zero) == tree_digest({"w": jnp.zeros((2, 3))})
    assert len({tree_digest(tree) for tree in [zero, *others]}) == 5
    assert leaf_digests(zero).keys() == {"w"}
