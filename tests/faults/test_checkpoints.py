"""Checkpoints that are damaged in every way, and saves that fail."""

import gc
import json
import logging
import resource
import shutil
import sys

import jax
import jax.numpy as jnp
import pytest

from nfx.checkpoint import (
    _fallback,
    _files,
    _store,
    CheckpointError,
    CheckpointStore,
    damaged_checkpoints,
    DamagedError,
    restore_latest,
    tree_digest,
)
from nfx.checkpoint._files import list_files
from nfx.cli._quiet import quiet_libraries
from tests.disk import full_disk


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


def one_bit(content):
    return bytes([content[0] ^ 0x01]) + content[1:]


def nothing_left(content):
    return b""


@pytest.mark.parametrize("change", [truncate, flip_bits, one_bit, nothing_left, delete])
def test_damage_to_any_file_is_seen_and_named_and_the_checkpoint_before_it_loaded(
    whole, tmp_path, change
):
    files = [path.relative_to(whole / "2") for path in (whole / "2").rglob("*") if path.is_file()]
    assert len(files) > 8
    for number, file in enumerate(files):
        copy = tmp_path / str(number) / "checkpoints"
        shutil.copytree(whole, copy)
        damage(copy / "2" / file, change)
        warnings = []
        with CheckpointStore(copy, warn=warnings.append) as store:
            step, found = restore_latest(store, state())
            assert (step, tree_digest(found)) == (1, tree_digest(state(1))), file
            assert store.progress(step) == PROGRESS
            assert store.steps() == [1]
        (warning,) = warnings
        assert "The checkpoint of step 2" in warning
        assert "Remove" not in warning  # it is moved already
        assert repr(file.as_posix()) in warning
        assert "going on from step 1" in warning
        assert damaged_checkpoints(copy) == {2: copy.with_name("checkpoints.damaged") / "2"}
        assert damaged_checkpoints(copy)[2].is_dir()


def test_the_list_of_files_is_not_believed_if_it_was_changed(whole, tmp_path):
    """One that lists less would vouch for less."""
    copy = tmp_path / "checkpoints"
    shutil.copytree(whole, copy)
    path = copy / "2" / "files.json"
    content = json.loads(path.read_text())
    content["sha256"].pop("record/metadata")
    path.write_text(json.dumps(content))
    with (
        CheckpointStore(copy) as store,
        pytest.raises(CheckpointError, match=r"step 2 .* is damaged: its list of files"),
    ):
        store.restore(state())


def test_of_a_damaged_record_nothing_is_read(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "checkpoints")
    damage(tmp_path / "checkpoints" / "1" / "record" / "metadata", one_bit)
    with (
        CheckpointStore(tmp_path / "checkpoints", read_only=True) as store,
        pytest.raises(DamagedError, match=r"'record/metadata' is missing or .* no earlier one to"),
    ):
        store.progress(1)


def test_all_that_is_listed_is_on_disk_with_the_folders_that_name_it(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    synced = []
    monkeypatch.setattr(_files, "sync", synced.append)
    list_files(tmp_path)
    assert set(synced) == {tmp_path / name for name in ("a", "a/b", "a/b/file")}


def test_what_is_read_is_compared_with_what_was_in_memory(whole, tmp_path):
    """Files that are as they were written do not prove that the right thing was written."""
    copy = tmp_path / "checkpoints"
    shutil.copytree(whole, copy)
    record = copy / "2" / "record" / "metadata"
    content = json.loads(record.read_text())
    content["digests"]["step"] = content["digests"]["model/bias"]
    record.write_text(json.dumps(content))
    (copy / "2" / "files.json").unlink()
    list_files(copy / "2")
    with (
        CheckpointStore(copy) as store,
        pytest.raises(CheckpointError, match="1 arrays are not what was saved, the first 'step'"),
    ):
        store.restore(state())


def test_if_no_checkpoint_is_good_all_are_listed_and_kept(whole, tmp_path):
    copy = tmp_path / "checkpoints"
    shutil.copytree(whole, copy)
    for step in (1, 2):
        damage(copy / str(step) / "record" / "metadata", truncate)
    with CheckpointStore(copy) as store:
        with pytest.raises(CheckpointError, match="None of the 2 checkpoints") as error:
            restore_latest(store, state())
        assert store.steps() == [1, 2]
    assert "step 1" in str(error.value)
    assert "step 2" in str(error.value)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
@pytest.mark.parametrize("name", ["metadata", "files.json", "_METADATA"])
def test_a_file_that_cannot_be_read_is_no_damage(whole, tmp_path, monkeypatch, name, error):
    """It may be right again in a minute: the checkpoint stays where it is."""
    copy = tmp_path / "checkpoints"
    shutil.copytree(whole, copy)

    def failing(read):
        def read_or_fail(path):
            if path.name == name and "2" in path.parts:
                raise error
            return read(path)

        return read_or_fail

    with CheckpointStore(copy) as store, monkeypatch.context() as patch:
        patch.setattr(_files, "file_digest", failing(_files.file_digest))
        patch.setattr(_files.Path, "read_text", failing(_files.Path.read_text))
        patch.setattr(_files.Path, "read_bytes", failing(_files.Path.read_bytes))
        message = rf"of step 2 in .* cannot be read: its file .*{name}' gives an error .*try again"
        with pytest.raises(CheckpointError, match=message):
            restore_latest(store, state())
        if name != "_METADATA":  # which is not read for the scores
            with pytest.raises(CheckpointError, match=message):
                CheckpointStore(copy)
            with CheckpointStore(copy, read_only=True) as looked_at:
                with pytest.raises(CheckpointError, match=message):
                    looked_at.find("best")
                assert looked_at.find(None) == 2
                assert tree_digest(looked_at.restore(state(), step=1)) == tree_digest(state(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]
    with CheckpointStore(copy) as store:
        assert restore_latest(store, state())[0] == 2


def test_a_whole_checkpoint_of_another_model_is_not_put_aside(whole, tmp_path):
    copy = tmp_path / "checkpoints"
    shutil.copytree(whole, copy)
    with CheckpointStore(copy) as store:
        store.save(3, {"other": jnp.zeros(2)}, blocking=True)
        with pytest.raises(CheckpointError, match=r"step 3 .* of another model"):
            restore_latest(store, state())
        assert store.steps() == [1, 2, 3]


def test_no_checkpoint_is_no_damage(tmp_path):
    with CheckpointStore(tmp_path) as store:
        assert restore_latest(store, state()) is None


def test_a_step_whose_checkpoint_was_damaged_is_saved_again(whole, tmp_path):
    copy = tmp_path / "checkpoints"
    shutil.copytree(whole, copy)
    damage(copy / "2" / "record" / "metadata", truncate)
    with CheckpointStore(copy) as store:
        assert restore_latest(store, state())[0] == 1
        store.save(2, state(7), blocking=True)
        assert tree_digest(store.restore(state(), step=2)) == tree_digest(state(7))


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


def test_of_a_save_that_fails_libraries_say_nothing_on_the_screen(
    store, said, monkeypatch, caplog, capfd
):
    """Orbax would log it from each thread, and futures that nobody asks would complain."""
    for name in ("absl", "asyncio"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    quiet_libraries()
    with full_disk(), pytest.raises(CheckpointError, match="File too large"):
        store.save(2, large(2), blocking=True)
    gc.collect()
    assert len(said) == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert capfd.readouterr().err == ""
    logging.getLogger("absl").error("of something else")
    assert caplog.records[-1].getMessage() == "of something else"


def test_a_failed_save_does_not_hide_what_ended_the_run(tmp_path, said):
    def run():
        with CheckpointStore(tmp_path / "checkpoints", warn=said.append) as store:
            store.save(1, large(2))
            raise ZeroDivisionError

    with full_disk(), pytest.raises(ZeroDivisionError):
        run()
    assert "The last save to" in said[-1]


@pytest.mark.parametrize(
    "error",
    [
        Exception("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"),
        ValueError("Encountered error while reading array index"),
    ],
)
def test_what_may_pass_while_arrays_are_loaded_is_no_other_model(whole, monkeypatch, error):
    def restore(*arguments, **options):
        raise error from OSError(5, "Input/output error")

    with CheckpointStore(whole, read_only=True) as store:
        monkeypatch.setattr(store._manager, "restore", restore)
        with pytest.raises(CheckpointError, match="need not be damage: see to the permissions"):
            store.restore(state())


def test_damaged_ones_that_cannot_be_moved_are_named(whole, tmp_path, monkeypatch):
    met = []
    meet = lambda name, **options: met.append(name)
    monkeypatch.setattr(_fallback.ocp.multihost, "sync_global_processes", meet)
    shutil.copytree(whole, tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "2" / "files.json").unlink()
    (tmp_path / "checkpoints.damaged").touch()
    with (
        CheckpointStore(tmp_path / "checkpoints") as store,
        pytest.raises(CheckpointError, match=r"elsewhere, and try again: 2\."),
    ):
        restore_latest(store, state())
    assert "nfx: checkpoints are put aside" in met  # where the other processes wait


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
