"""nfx's own format: what is read is what was written, and no damage goes unnoticed."""

import errno
import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nfx.data import (
    _array_record,
    ArraySource,
    convert,
    DatasetError,
    ImageError,
    load_folder,
    load_records,
    NoiseSource,
    Record,
    Splits,
    verify_records,
)
from nfx.data._array_record import decode_record, encode_record
from tests.datasets import noise, write_folder


COUNT = 40


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A data set of several shards, and the records of its splits."""
    root = tmp_path_factory.mktemp("records")
    train = write_folder(root / "images/train", ["ash", "birch"], COUNT, prefix="train/")
    test = write_folder(root / "images/test", ["ash", "birch"], 5, first=500, prefix="test/")
    convert(load_folder(root / "images"), root / "set", shard_megabytes=0.004)
    return root / "set", Splits(train, test)


@pytest.fixture
def dataset(pristine, tmp_path):
    """A copy to damage."""
    shutil.copytree(pristine[0], tmp_path / "set")
    return tmp_path / "set"


def reason(function, *arguments):
    with pytest.raises(DatasetError) as error:
        function(*arguments)
    return str(error.value)


@pytest.mark.parametrize(
    "record",
    [
        Record(b"\xff\xd8jpeg", 3, "cat/1.jpg"),
        Record(b"", 0, ""),
        Record(b"x", 2**31 - 1, "Brücke/\udcff.png"),
        Record(np.arange(24, dtype=np.uint8).reshape(2, 4, 3), 7, "image 5"),
        Record(np.arange(6, dtype=np.uint8).reshape(3, 2, 1), 0, "grey"),
    ],
)
def test_records_are_read_as_they_were_written(record):
    found = decode_record(encode_record(record))
    assert type(found.image) is type(record.image)
    np.testing.assert_array_equal(found.image, record.image, strict=True)
    assert found[1:] == record[1:]


def test_a_record_is_laid_out_as_documented():
    expected = b"\x05\0\0\0" + b"\x03\0\0\0" + 12 * b"\0" + b"a.b" + b"image"
    assert encode_record(Record(b"image", 5, "a.b")) == expected
    pixels = b"\x05\0\0\0" + b"\x01\0\0\0" + b"\x02\0\0\0\x01\0\0\0\x03\0\0\0" + b"a" + b"rgbRGB"
    image = np.frombuffer(b"rgbRGB", np.uint8).reshape(2, 1, 3)
    assert encode_record(Record(image, 5, "a")) == pixels


@pytest.mark.parametrize("length", [0, 19, 22])
def test_what_is_cut_short_is_no_record(length):
    with pytest.raises(ValueError, match=f"{length} bytes are"):
        decode_record(encode_record(Record(b"", 5, "a.b"))[:length])


def test_a_data_set_is_what_was_converted(pristine):
    root, expected = pristine
    found = load_records(root)
    assert len(found.train.shards) > 5
    for part, records in zip(found, expected, strict=True):
        assert [part[index] for index in range(len(part))] == records
        assert list(part) == records
        assert part[-1] == records[-1]
        assert part.class_names == ("ash", "birch")
        with pytest.raises(IndexError, match=f"of {len(records)} records"):
            part[len(records)]


def test_threads_and_copies_read_one_source(pristine):
    root, expected = pristine
    source = load_records(root).train
    source[0]
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    order = np.random.default_rng(0).integers(0, len(source), 4000).tolist()
    for part in (source, copy):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(part.__getitem__, order))
        assert found == [expected.train[index] for index in order]


@pytest.mark.parametrize("position", [0, 2, -1])
def test_shards_are_opened_when_they_are_read(dataset, position):
    source = load_records(dataset).train
    second = source.shards[1]
    (dataset / second.name).unlink()
    position %= second.records
    source[0]
    with pytest.raises(ImageError, match=r"cannot be read: .*convert --verify") as error:
        source[source.shards[0].records + position]
    assert error.value.name == f"{second.name}, record {position}"


def test_a_damaged_record_is_named_and_others_are_read(dataset, pristine):
    source = load_records(dataset).train
    shard = dataset / source.shards[0].name
    data = bytearray(shard.read_bytes())
    data[data.index(pristine[1].train[3].image)] ^= 1
    shard.write_bytes(data)
    assert source[2] == pristine[1].train[2]
    with pytest.raises(ImageError, match="mismatch") as error:
        source[3]
    assert error.value.name == f"{shard.name}, record 3"


def test_pixels_are_kept(tmp_path):
    noise_images = NoiseSource(30, (4, 5, 3), num_classes=3)
    images = np.stack([record.image for record in (noise_images[i] for i in range(30))])
    arrays = ArraySource(images, np.arange(30) % 3, ["0", "1", "2"])
    convert(Splits(arrays, noise_images), tmp_path / "set", workers=3)
    found = load_records(tmp_path / "set")
    for index in range(30):
        np.testing.assert_array_equal(found.train[index].image, images[index], strict=True)
        assert found.train[index][1:] == (index % 3, f"image {index}")
        np.testing.assert_array_equal(found.test[index].image, images[index], strict=True)


def test_every_flipped_byte_of_a_shard_is_found(dataset):
    path = dataset / load_records(dataset).train.shards[2].name
    data = path.read_bytes()
    for place in [0, len(data) // 2, len(data) - 1, *range(7, len(data), len(data) // 20)]:
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        load_records(dataset)  # which looks at sizes only
        message = reason(verify_records, dataset)
        assert f"In {str(dataset)!r} 1 shard is damaged" in message
        assert f"{path.name}: its checksum is wrong" in message
    path.write_bytes(data)
    verify_records(dataset)


@pytest.mark.parametrize("size", [0, 65536, -1])
def test_a_shard_of_the_wrong_size_is_found_at_once(dataset, size):
    path = dataset / load_records(dataset).test.shards[0].name
    data = path.read_bytes()
    path.write_bytes(data[:size] if size >= 0 else data + b"\0")
    for check in (load_records, verify_records):
        assert f"{path.name}: {path.stat().st_size} bytes instead of" in reason(check, dataset)


def test_every_damaged_shard_is_reported(dataset):
    train, test = load_records(dataset)
    (dataset / train.shards[1].name).unlink()
    path = dataset / test.shards[0].name
    path.write_bytes(path.read_bytes()[::-1])
    message = reason(verify_records, dataset)
    assert f"{train.shards[1].name}: No such file" in message
    assert f"{path.name}: its checksum is wrong" in message
    assert "2 shards are damaged" in message
    assert train.shards[1].name in reason(load_records, dataset)


def test_what_cannot_be_read_is_not_told_as_damage(dataset, monkeypatch):
    names = [shard.name for shard in load_records(dataset).train.shards[:2]]
    (dataset / names[0]).unlink()
    digest = _array_record.file_digest

    def refuse(path):
        if path.name == names[1]:
            raise OSError(errno.EIO, "Input/output error")
        return digest(path)

    monkeypatch.setattr(_array_record, "file_digest", refuse)
    damaged, unreadable = reason(verify_records, dataset).split("\nIn ")
    assert "1 shard is damaged" in damaged
    assert f"{names[0]}: No such file" in damaged
    assert "1 shard is not readable, which need not be damage" in unreadable
    assert f"{names[1]}: Input/output error" in unreadable


def test_nothing_is_verified_by_no_threads(pristine):
    with pytest.raises(ValueError, match="workers=0 must be at least 1"):
        verify_records(pristine[0], workers=0)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((2, 3, 1)), np.zeros((2, 3), np.uint8), np.zeros((0, 0, 0), np.uint8)],
)
def test_pixels_that_are_no_image_are_not_written(pixels):
    with pytest.raises(ImageError, match=r"must be uint8 of shape \(height, width, chan") as error:
        encode_record(Record(pixels, 0, "noise"))
    assert error.value.name == "noise"


def test_every_flipped_byte_of_the_manifest_is_found(dataset):
    path = dataset / "dataset.json"
    data = path.read_bytes()
    assert verify_records(dataset).to_json().encode() == data
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ 1]), place)
            message = reason(load_records, dataset)
            assert "damaged" in message or "is of format" in message
            os.pwrite(file.fileno(), bytes([byte]), place)
        verify_records(dataset)
        for length in range(len(data) - 1, -1, -1):
            file.truncate(length)
            assert "damaged" in reason(load_records, dataset)


def test_what_is_no_data_set_is_refused_with_the_reason(dataset, tmp_path):
    path = dataset / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    assert "is of format 2, and this nfx reads up to 1" in reason(load_records, dataset)
    path.unlink()
    assert "it has no dataset.json" in reason(load_records, dataset)
    (dataset / ".conversion").mkdir()
    assert "is not finished: run the same `nfx convert` again" in reason(load_records, dataset)
    assert "is no data set" in reason(verify_records, tmp_path / "nowhere")


def test_verifying_reports_its_progress(pristine):
    seen = []
    manifest = verify_records(pristine[0], progress=lambda *done: seen.append(done))
    total = sum(shard.bytes for shard in manifest.shards)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)


class _Listed(list):
    """Records as a source."""

    class_names = ("ash", "birch")


def test_the_digest_is_of_the_contents_whatever_the_shards(tmp_path):
    records = [Record(noise(number), number % 2, f"{number}.jpg") for number in range(12)]
    change = {
        "same": records,
        "order": [*records[:3], records[4], records[3], *records[5:]],
        "label": [records[0]._replace(label=1), *records[1:]],
        "name": [records[0]._replace(name="1.jpg"), *records[1:]],
        "image": [records[0]._replace(image=b"other"), *records[1:]],
        "fewer": records[:-1],
    }
    digests = {}
    for name, changed in {"few": records, **change}.items():
        root = tmp_path / name
        convert(Splits(_Listed(changed), _Listed(records)), root,
                shard_megabytes=1 if name == "few" else 0.001)  # fmt: skip
        split = json.loads((root / "dataset.json").read_text())["splits"]["train"]
        digests[name] = split["content"]
        assert (len(split["shards"]) == 1) == (name == "few")
    assert digests["few"] == digests["same"]
    assert len(set(digests.values())) == len(change)
