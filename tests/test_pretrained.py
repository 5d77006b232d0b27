"""Files of weights, sound and broken, and the hub without a network."""

import contextlib
import errno
import io
import json
import os
import pathlib
import pickle
import warnings
import zipfile
from collections import OrderedDict

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import errors

import nfx
from nfx.weights import (
    from_timm,
    read_description,
    read_weights,
    to_official,
    to_timm,
    WeightsError,
    write_weights,
)
from tests.disk import full_disk
from tests.golden import rules
from tests.reference import create_abstract, golden_mapping, load_golden


REPOSITORY = "timm/test_nfnet.r160_in1k"


@pytest.fixture(scope="module")
def mapping():
    return golden_mapping(load_golden("timm_test_nfnet_49x62"))


@pytest.fixture
def hub(tmp_path, mapping):
    """A cache as the hub's library keeps it, with one repository in it."""
    folder = tmp_path / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    write_weights(snapshot / "model.safetensors", mapping)
    (snapshot / "config.json").write_text(json.dumps({"architecture": "test_nfnet"}))
    return tmp_path / "hub"


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_give_back_what_was_written(tmp_path, mapping, suffix):
    path = tmp_path / f"weights{suffix}"
    write_weights(path, mapping)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    back = read_weights(path)
    assert back.keys() == mapping.keys()
    for name, array in mapping.items():
        np.testing.assert_array_equal(back[name], array)


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(WeightsError, match=r"must end in .safetensors or .npz"):
        write_weights(tmp_path / "weights.pt", {})
    with pytest.raises(WeightsError, match="cannot hold 'a' of bfloat16: convert to float32"):
        write_weights(tmp_path / "weights.npz", {"a": jnp.zeros(2, jnp.bfloat16)})
    with pytest.raises(WeightsError, match="cannot hold 'a' of object"):
        write_weights(tmp_path / "weights.safetensors", {"a": np.asarray(["x"], object)})
    with pytest.raises(WeightsError, match=r"No directory .*none' to write"):
        write_weights(tmp_path / "none" / "weights.npz", {"a": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_what_does_not_fit_on_the_disk_leaves_what_was_there(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    write_weights(path, {"a": np.zeros(2)})
    before = path.read_bytes()
    with (
        full_disk(),
        pytest.raises(WeightsError, match=r"Cannot write .*weights.* \(File too large"),
    ):
        write_weights(path, {"a": np.zeros(10_000)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_has_the_permissions_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_weights(tmp_path / "weights.npz", {"a": np.zeros(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "weights.npz").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("read", [read_weights, read_description])
def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch, read):
    (tmp_path / "weights.npz").touch()

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(WeightsError, match=r"Cannot read .*weights.npz' \(Permission denied\)"):
        read(tmp_path / "weights.npz")


def test_a_file_becomes_a_model(tmp_path, mapping):
    write_weights(tmp_path / "weights.safetensors", mapping)
    model = nfx.load_pretrained(tmp_path / "weights.safetensors", model="timm/test_nfnet")
    golden = load_golden("timm_test_nfnet_49x62")
    logits = jax.jit(lambda m, x: jax.vmap(m)(x))(model, rules.make_input(2, 49, 62))
    np.testing.assert_allclose(logits, golden["logits"], atol=2e-5)


def test_classes_channels_and_lineage_are_read_off_the_file(tmp_path, key):
    model = jax.jit(lambda: nfx.create_model("nfnet_nano", num_classes=7, in_channels=4, key=key))()
    for name, export in (("official.npz", to_official), ("timm.safetensors", to_timm)):
        write_weights(tmp_path / name, export(model))
        found = nfx.load_pretrained(tmp_path / name, model="nfnet_nano", drop_rate=0.0)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(found), jax.tree.leaves(model))
        assert found.drop_rate == 0


def test_a_repository_is_loaded_from_the_cache(hub, mapping):
    model = nfx.load_pretrained(REPOSITORY, cache_dir=hub, offline=True)
    for name, array in to_timm(model).items():
        np.testing.assert_array_equal(array, mapping[name])


def test_a_repository_of_another_variant_is_refused_before_its_weights_are_fetched(hub):
    next(hub.rglob("model.safetensors")).unlink()
    with pytest.raises(WeightsError, match="'timm/test_nfnet', not of 'timm/nfnet_l0'"):
        nfx.load_pretrained(REPOSITORY, model="timm/nfnet_l0", cache_dir=hub, offline=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm/dm_nfnet_f0.dm_in1k",
            "is not in the cache, and offline=True looks no further. Leave",
        ),
        ("timm/dm_nfnet_f0", "nor the name of weights"),
        ("weights.safetensors", "nor the name of weights"),
        ("timm/dm_nfnet_f9.dm_in1k", "Did you mean 'timm/dm_nfnet_f"),
        ("timm/convnext_tiny.in12k", "which nfx does not have"),
        ("weights/f0.npz", "'weights/f0.npz' is no run directory, no file"),
        ("timm/f0.npz", "'timm/f0.npz' is no run directory, no file"),
        ("else/dm_nfnet_f0.dm_in1k", "nor the name of weights"),
    ],
)
def test_weights_that_are_not_there_are_named(tmp_path, name, message):
    with pytest.raises(WeightsError, match=message):
        nfx.load_pretrained(name, cache_dir=tmp_path, offline=True)


def failure(kind):
    response = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
    try:
        return kind("told by the server", response=response)
    except TypeError:
        return kind("told by the machine")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.RepositoryNotFoundError, "no repository 'timm/dm_nfnet_f0.dm_in1k'"),
        (errors.RemoteEntryNotFoundError, "has no model.safetensors at revision 'main'"),
        (errors.LocalEntryNotFoundError, "cannot be reached. Connect"),
        (errors.HfHubHTTPError, "Cannot download 'timm/dm_nfnet_f0.dm_in1k': told by"),
        (ConnectionError, "Cannot download 'timm/dm_nfnet_f0.dm_in1k'"),
    ],
)
def test_what_the_hub_may_answer(monkeypatch, kind, message):
    def fail(*args, **kwargs):
        raise failure(kind)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(WeightsError, match=message):
        nfx.load_pretrained("timm/dm_nfnet_f0.dm_in1k")


def test_a_file_must_say_what_it_is(tmp_path, mapping):
    write_weights(tmp_path / "weights.npz", mapping)
    with pytest.raises(WeightsError, match="does not say which model it is of"):
        nfx.load_pretrained(tmp_path / "weights.npz")
    with pytest.raises(ValueError, match="Unknown model 'test_nfnet'"):
        nfx.load_pretrained(tmp_path / "weights.npz", model="test_nfnet")
    with pytest.raises(ValueError, match="do not fit the model"):
        nfx.load_pretrained(tmp_path / "weights.npz", model="timm/nfnet_l0")
    write_weights(tmp_path / "other.npz", {"x": np.zeros(3)})
    with pytest.raises(WeightsError, match=r"not a classifier and a stem .* begins with 'x'"):
        nfx.load_pretrained(tmp_path / "other.npz", model="timm/test_nfnet")


class Malicious:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle ran code')",))


class Forged:
    """An array of objects at addresses of its own choice."""

    def __reduce__(self):
        return (np.ndarray, ((1,), np.dtype("O"), b"12345678"))


def as_bytes(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def torch_checkpoint(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/data.pkl", pickle.dumps(Malicious()))


ARRAYS = {"head": np.arange(6.0).reshape(2, 3)}
NPZ = as_bytes(lambda file: np.savez(file, **ARRAYS))
SAFETENSORS = (8).to_bytes(8, "little") + b'{"a": 1}'


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "No file"),
        (b"", "damaged, truncated or something else .0 bytes."),
        (b"<!DOCTYPE html><html></html>", "damaged, truncated or something else"),
        (SAFETENSORS, "damaged, truncated or something else"),
        (NPZ[: len(NPZ) // 2], "damaged, truncated or something else"),
        (NPZ.replace(ARRAYS["head"].tobytes(), bytes(48)), "damaged, truncated"),
        (pickle.dumps(ARRAYS), "is a pickle, as the released official files are"),
        (pickle.dumps(Malicious()), "is a pickle"),
        (as_bytes(torch_checkpoint), "is a PyTorch checkpoint, which is a pickle"),
        (
            as_bytes(lambda file: np.savez(file, a=np.asarray(Malicious(), object))),
            "holds Python objects and not only arrays",
        ),
    ],
)
def test_broken_files_are_refused_and_run_nothing(tmp_path, contents, message):
    path = tmp_path / "weights.npz"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(WeightsError, match=message):
        read_weights(path)


@pytest.mark.parametrize("length", [60, 68, 76])
def test_a_header_of_any_length_is_safetensors(tmp_path, length):
    """Its first two bytes are its length, and may be those of a pickle."""
    path = tmp_path / "weights.safetensors"
    write_weights(path, {"a" * length: np.ones(2, np.float32)})
    assert list(read_weights(path)) == ["a" * length]


def test_damage_anywhere_is_told_as_such(tmp_path):
    """A byte of a compressed archive, and of a pickle, changed here and there."""
    path = tmp_path / "weights"
    archive = as_bytes(lambda file: np.savez_compressed(file, a=np.arange(500.0)))
    tree = pickle.dumps({"m": {"w": np.arange(20.0), "s": np.float32(1)}})
    for contents in (archive, tree):
        for position in range(8, len(contents), 7):
            broken = bytearray(contents)
            broken[position] ^= 0xFF
            path.write_bytes(broken)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(WeightsError):
                    read_weights(path, unpickle=True)


def test_a_truncated_safetensors_file_is_refused(tmp_path, mapping):
    path = tmp_path / "weights.safetensors"
    write_weights(path, mapping)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="damaged, truncated"):
        read_weights(path)


LINEAR = {
    "w": np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3)),
    "permuted": np.arange(24.0, dtype=np.float32).reshape(2, 3, 4).transpose(1, 2, 0),
    "b": np.arange(3, dtype=">f8"),
    "scale": np.float16(0.5),
    "empty": np.zeros((0, 2), np.float32),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("numpy", [1, 2])
def test_pickles_of_arrays_are_read_when_asked_for(tmp_path, protocol, numpy):
    path = tmp_path / "F0_haiku.npz"
    contents = pickle.dumps(OrderedDict({"NFNet/~/linear": LINEAR}), protocol)
    if numpy == 1 and protocol == 2:  # where NumPy 1 kept what is pickled
        contents = contents.replace(b"numpy._core.", b"numpy.core.")
        assert b"numpy.core." in contents
    path.write_bytes(contents)
    with pytest.warns(UserWarning, match="only with files from people you trust"):
        found = read_weights(path, unpickle=True)
    linear = found["NFNet/~/linear"]
    for name, array in LINEAR.items():
        np.testing.assert_array_equal(linear[name], array)
        assert linear[name].dtype == array.dtype


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (pickle.dumps(Malicious()), "refers to builtins.exec, which is not an array"),
        (pickle.dumps([1, 2]), "holds a list, not a dictionary"),
        (pickle.dumps({"a": "text"}), "'a' is not the name of an array"),
        (pickle.dumps({"a": np.asarray(["x"], object)}), "an array of 'O8', which is not of num"),
        (pickle.dumps({"a": np.zeros(2, "f4,i4")}), "an array of 'V8'"),
        (pickle.dumps({"a": Forged()}), "an array of 'O8'"),
        (pickle.dumps(ARRAYS)[:-30], "Cannot unpickle"),
    ],
)
def test_pickles_of_anything_else_are_refused_even_then(tmp_path, contents, message):
    path = tmp_path / "weights.pkl"
    path.write_bytes(contents)
    with pytest.warns(UserWarning, match="Unpickling"), pytest.raises(WeightsError, match=message):
        read_weights(path, unpickle=True)


def test_loading_allocates_nothing_but_the_weights(mapping):
    like = create_abstract("timm/test_nfnet")
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(like))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(from_timm(mapping, like)))
