"""Checkpoints that are damaged in every way, and saves that fail."""

import gc
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from nfx.checkpoint import _store, CheckpointError, CheckpointStore, tree_digest


# Orbax leaves futures of a failed read or write behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PROGRESS = {"unlogged": [{"loss": 1.5}]}


def state(scale=1.0):
    key = jax.random.key(0)
    return {
        "model": {"weight": scale * jax.random.normal(key, (64, 32)), "bias": jnp.zeros(3)},
        "step": jnp.asarray(4, jnp.int32),
    }


@pytest.fixture(autouse=True)
def complaints_here():
    yield
    gc.collect()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two checkpoints, of steps 1 and 2."""
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    with CheckpointStore(directory) as store:
        for step in (1, 2):
            store.save(step, state(step), {"seed": 3}, progress=PROGRESS, blocking=True)
    return directory


def truncate(content):
    return content[: len(content) // 2]


def flip_bits(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x11]) + content[middle + 1 :]


def delete(content):
    return None


def damage(file, change):
    content = change(file.read_bytes())
    file.unlink() if content is None else file.write_bytes(content)


@pytest.mark.parametrize("change", [truncate, flip_bits, delete])
def test_no_damage_to_any_file_is_ever_loaded(whole, tmp_path, change):
    """Either the checkpoint is refused and the one before it taken, or every value is right."""
    files = [path.relative_to(whole) for path in (whole / "2").rglob("*") if path.is_file()]
    assert len(files) > 6
    detected = set()
    for number, file in enumerate(files):
        copy = tmp_path / str(number) / "checkpoints"
        shutil.copytree(whole, copy)
        damage(copy / file, change)
        warnings = []
        with CheckpointStore(copy, warn=warnings.append) as store:
            step, found = store.restore_newest(state())
            assert tree_digest(found) == tree_digest(state(step)), file
            assert store.progress(step) == PROGRESS
            assert store.config(step) == {"seed": 3}
        if step == 1:
            detected.add(file)
            assert len(warnings) == 1
            assert "The checkpoint of step 2" in warnings[0]
            assert (copy.with_name("checkpoints.damaged") / "2").is_dir()
            assert store.steps() == [1]
    # The other files are left over from merging what processes wrote, or say what they are.
    largest = max(files, key=lambda file: (whole / file).stat().st_size)
    merged = [file for file in files if file.parts[:3] == ("2", "state", "d")]
    needed = [Path("2/record/metadata"), Path("2/state/manifest.ocdbt"), largest, *merged]
    assert detected >= set(needed)


def test_a_record_that_was_changed_is_no_record(whole, tmp_path):
    """The record says which arrays are right, and what a run goes on with."""
    copy = tmp_path / "checkpoints"
    shutil.copytree(whole, copy)
    record = copy / "2" / "record" / "metadata"
    content = record.read_bytes()
    place = content.index(b"1.5")
    record.write_bytes(content[:place] + b"1.7" + content[place + 3 :])
    with (
        CheckpointStore(copy) as store,
        pytest.raises(CheckpointError, match=r"step 2 .* is damaged: its record is not what was"),
    ):
        store.restore(state())


def test_if_no_checkpoint_is_good_all_are_listed_and_kept(whole, tmp_path):
    copy = tmp_path / "checkpoints"
    shutil.copytree(whole, copy)
    for step in (1, 2):
        damage(copy / str(step) / "record" / "metadata", truncate)
    with CheckpointStore(copy) as store:
        with pytest.raises(CheckpointError, match="None of the 2 checkpoints") as error:
            store.restore_newest(state())
        assert store.steps() == [1, 2]
    assert "step 1" in str(error.value)
    assert "step 2" in str(error.value)


def test_no_checkpoint_is_no_damage(tmp_path):
    with CheckpointStore(tmp_path) as store:
        assert store.restore_newest(state()) is None


def test_a_step_whose_checkpoint_was_damaged_is_saved_again(whole, tmp_path):
    copy = tmp_path / "checkpoints"
    shutil.copytree(whole, copy)
    damage(copy / "2" / "record" / "metadata", truncate)
    with CheckpointStore(copy) as store:
        assert store.restore_newest(state())[0] == 1
        store.save(2, state(7), blocking=True)
        assert tree_digest(store.restore(state(), step=2)) == tree_digest(state(7))


@contextmanager
def full_disk(bytes_per_file=20_000):
    """No file can grow: what writing more meets is an error of the system, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def large(scale=1.0):
    return {"weight": scale * jax.random.normal(jax.random.key(1), (256, 512))}


@pytest.fixture
def said():
    return []


@pytest.fixture
def store(tmp_path, said, monkeypatch):
    monkeypatch.setattr(_store, "_RETRY_SECONDS", 0.0)
    with CheckpointStore(tmp_path / "checkpoints", keep=1, warn=said.append) as store:
        store.save(1, large(1), blocking=True)
        yield store


def test_a_save_that_fails_twice_is_an_error_and_leaves_nothing(store, said):
    with full_disk(), pytest.raises(CheckpointError, match="the latest is of step 1") as error:
        store.save(2, large(2), blocking=True)
    assert "The save of step 2" in str(error.value)
    assert "Make room" in str(error.value)
    assert len(said) == 1
    assert "It is tried once more" in said[0]
    with CheckpointStore(store.directory) as again:
        assert again.steps() == [1]
        assert tree_digest(again.restore(large())) == tree_digest(large(1))


def test_a_save_that_fails_once_is_mended(store, said, monkeypatch):
    def room_again(seconds):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    monkeypatch.setattr(_store.time, "sleep", room_again)
    with full_disk():
        store.save(2, large(2), blocking=True)
    assert len(said) == 1
    assert store.steps() == [2]
    assert tree_digest(store.restore(large())) == tree_digest(large(2))


def test_a_save_that_fails_later_is_found_by_the_next(store, said):
    with full_disk():
        store.save(2, large(2))
        while store._manager.is_saving_in_progress():
            pass
    store.save(3, large(3))
    assert len(said) == 1
    assert "The save before that of step 3" in said[0]
    assert [path.name for path in store.directory.iterdir()] == ["3"]
    assert tree_digest(store.restore(large())) == tree_digest(large(3))


def test_a_last_save_that_fails_is_not_passed_over(store):
    with full_disk():
        store.save(2, large(2))
        with pytest.raises(CheckpointError, match="the latest is of step 1"):
            store.wait()
