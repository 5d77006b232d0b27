"""Conversion ends with the same bytes whatever happens on the way, or says why it cannot."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from nfx.cli import main
from nfx.data import (
    convert,
    DatasetError,
    load_folder,
    load_images,
    load_records,
    Record,
    Splits,
    verify_records,
)
from tests.datasets import files_of, noise, samples, write_folder, write_tar
from tests.disk import full_disk


NFX = [sys.executable, "-c", "from nfx.cli import main; raise SystemExit(main())"]
CLASSES = ["ash", "birch", "oak"]
MEGABYTES = 0.0018


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder of images, and the files of a conversion that nothing disturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    write_folder(root / "images/train", CLASSES, 120)
    write_folder(root / "images/test", CLASSES, 10, first=500)
    convert(load_folder(root / "images"), root / "set", shard_megabytes=MEGABYTES, workers=1)
    files = files_of(root / "set")
    assert len(files) > 40
    return root / "images", files


def start(images, destination, *options):
    command = [*NFX, "convert", str(images), str(destination), "--shard-megabytes", str(MEGABYTES)]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)  # fmt: skip


def shards_in(root):
    return sorted(path.name for path in root.glob("*.array_record"))


def reason(*arguments, **options):
    with pytest.raises(DatasetError) as error:
        convert(*arguments, **{"shard_megabytes": MEGABYTES, **options})
    return str(error.value)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_result_depends_on_no_number_of_threads(undisturbed, tmp_path, workers):
    images, files = undisturbed
    seen = []
    convert(load_folder(images), tmp_path, shard_megabytes=MEGABYTES, workers=workers,
            progress=seen.append)  # fmt: skip
    assert files_of(tmp_path) == files
    assert seen[-1][:3] == (390, 390, 0)
    assert seen[-1].bytes > sum(map(len, files_of(images).values()))


@pytest.mark.parametrize("wanted", [1, 12, 24])
def test_a_killed_conversion_goes_on_to_the_same_bytes(undisturbed, tmp_path, wanted):
    images, files = undisturbed
    root = tmp_path / "set"
    process = start(images, root, "--workers", "2")
    while len(shards_in(root)) < wanted:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = shards_in(root)
    assert not (root / "dataset.json").exists(), "it finished before it was killed"
    with pytest.raises(DatasetError, match="run the same `nfx convert` again"):
        load_records(root)
    times = {name: (root / name).stat().st_mtime_ns for name in kept}

    process = start(images, root)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert files_of(root) == files
    written_again = {name for name in kept if (root / name).stat().st_mtime_ns != times[name]}
    assert len(kept) >= wanted
    assert not written_again


def test_an_interrupted_conversion_ends_by_itself_and_goes_on(undisturbed, tmp_path):
    images, files = undisturbed
    process = start(images, tmp_path / "set", "--workers", "1")
    while len(shards_in(tmp_path / "set")) < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.0005)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "interrupted; what was written is kept" in output
    assert "Traceback" not in output
    assert not list((tmp_path / "set/.conversion").glob("*.partial"))
    seen = []
    convert(load_folder(images), tmp_path / "set", shard_megabytes=MEGABYTES,
            progress=seen.append)  # fmt: skip
    assert seen[0].kept > 0
    assert files_of(tmp_path / "set") == files


class Failing:
    """Images of which one cannot be had."""

    def __init__(self, source, index, error):
        self.source, self.index, self.error = source, index, error
        self.class_names, self.names, self.labels = source.class_names, source.names, source.labels

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index == self.index:
            raise self.error
        return self.source[index]


def begin(images, root):
    """Leaves a conversion at its middle."""
    train, test = load_folder(images)
    with pytest.raises(ZeroDivisionError):
        convert(Splits(Failing(train, 201, ZeroDivisionError()), test), root,
                shard_megabytes=MEGABYTES, workers=1)  # fmt: skip
    assert 0 < len(shards_in(root)) < 40


def test_after_a_failure_other_shards_are_not_finished_first(undisturbed, tmp_path):
    train, _ = load_folder(undisturbed[0])
    read = []

    class Slow(Failing):
        def __getitem__(self, index):
            read.append(index)
            time.sleep(0.003)
            return self.source[index]

    with pytest.raises(ZeroDivisionError):
        convert(Splits(Failing(train, 1, ZeroDivisionError()), Slow(train, 0, None)), tmp_path,
                shard_megabytes=100, workers=2)  # fmt: skip
    assert len(read) < 200  # of 64 that are looked at beforehand, and 360


def test_half_written_shards_are_not_taken_for_whole(undisturbed, tmp_path):
    images, files = undisturbed
    begin(images, tmp_path)
    scratch = tmp_path / ".conversion"
    whole = shards_in(tmp_path)
    (tmp_path / whole[0]).write_bytes(files[whole[0]][:-1])  # shorter than its receipt says
    (scratch / f"{whole[1]}.json").unlink()  # without a receipt
    (tmp_path / whole[1]).write_bytes(bytes(len(files[whole[1]])))
    (scratch / f"{whole[2]}.json").write_text("{")
    (tmp_path / whole[2]).write_bytes(bytes(len(files[whole[2]])))
    missing = sorted(files.keys() - set(whole))[-1]
    (scratch / f"{missing}.partial").write_bytes(files[missing][:100])
    (scratch / f"{missing}.json").write_text((scratch / f"{whole[0]}.json").read_text())
    (scratch / "dataset.json.partial").write_text("{")
    convert(load_folder(images), tmp_path, shard_megabytes=MEGABYTES)
    assert files_of(tmp_path) == files


@pytest.mark.parametrize("removed", [0, 3, "all but the plan", "all but the lock"])
def test_killed_while_it_removed_its_scratch_files(undisturbed, tmp_path, removed, monkeypatch):
    images, files = undisturbed
    monkeypatch.setattr("nfx.data._convert._remove_scratch", lambda scratch: None)
    convert(load_folder(images), tmp_path, shard_megabytes=MEGABYTES)
    monkeypatch.undo()
    scratch = tmp_path / ".conversion"
    receipts = sorted(scratch.glob("*.array_record.json"))
    for path in receipts[: removed if isinstance(removed, int) else len(receipts)]:
        path.unlink()
    load_records(tmp_path)
    write_folder(tmp_path.parent / f"{tmp_path.name}-other", CLASSES, 20)
    other = load_folder(tmp_path.parent / f"{tmp_path.name}-other")
    if removed == "all but the lock":
        (scratch / "plan.json").unlink()
        assert "holds a finished data set" in reason(load_folder(images), tmp_path)
    else:
        assert "begun from other images" in reason(other, tmp_path)
        convert(load_folder(images), tmp_path, shard_megabytes=MEGABYTES)
    assert files_of(tmp_path) == files


def test_what_was_begun_otherwise_is_not_gone_on_with(undisturbed, tmp_path):
    images, files = undisturbed
    root = tmp_path / "set"
    begin(images, root)
    before = files_of(root)
    copy = tmp_path / "images"
    assert "begun with shard_megabytes=0.0018" in reason(load_folder(images), root,
                                                        shard_megabytes=1)  # fmt: skip
    for change in ("rename", "content", "remove", "class"):
        shutil.copytree(images, copy)
        first = copy / "train/ash/000.jpg"
        {
            "rename": lambda path: path.with_name("001.jpg").rename(path.with_name("001.png")),
            "content": lambda path: path.write_bytes(b"other"),
            "remove": lambda path: path.unlink(),
            "class": lambda path: [
                (copy / split / "oak").rename(copy / split / "pine") for split in ("train", "test")
            ],
        }[change](first)
        assert "from these before they changed" in reason(load_folder(copy), root)
        shutil.rmtree(copy)
    (root / "notes.txt").touch()
    assert "holds 'notes.txt', which is not of this conversion" in reason(load_folder(images), root)
    (root / "notes.txt").unlink()
    assert files_of(root) == before
    shutil.copytree(images, copy)  # the same images elsewhere
    convert(load_folder(copy), root, shard_megabytes=MEGABYTES)
    assert files_of(root) == files


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"source": 1}'])
def test_a_damaged_plan_is_told_as_such(undisturbed, tmp_path, text):
    begin(undisturbed[0], tmp_path / "set")
    (tmp_path / "set/.conversion/plan.json").write_text(text)
    message = reason(load_folder(undisturbed[0]), tmp_path / "set")
    assert "plan.json' is damaged" in message
    assert "Remove the directory" in message


def test_destinations_that_hold_something_are_refused(undisturbed, tmp_path):
    source = load_folder(undisturbed[0])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").touch()
    assert "is not empty: it holds 'thesis.tex'" in reason(source, tmp_path / "full")
    assert "Cannot write into" in reason(source, tmp_path / "full/thesis.tex")
    convert(source, tmp_path / "set")
    before = files_of(tmp_path / "set")
    assert "holds a finished data set" in reason(source, tmp_path / "set")
    assert files_of(tmp_path / "set") == before
    for options in ({"workers": 0}, {"shard_megabytes": 0}, {"shard_megabytes": float("nan")}):
        with pytest.raises(ValueError, match=r"must be (at least 1|above 0)"):
            convert(source, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_two_conversions_do_not_write_into_one_directory(undisturbed, tmp_path):
    images, files = undisturbed
    train, test = load_folder(images)
    reached, go_on = threading.Event(), threading.Event()

    class Waiting(Failing):
        def __getitem__(self, index):
            if index == self.index:
                reached.set()
                assert go_on.wait(10)
            return self.source[index]

    first = threading.Thread(
        target=convert,
        args=(Splits(Waiting(train, 201, None), test), tmp_path),
        kwargs={"shard_megabytes": MEGABYTES, "workers": 1},
    )
    first.start()
    assert reached.wait(10)
    assert "Another conversion" in reason(load_folder(images), tmp_path)
    go_on.set()
    first.join()
    assert files_of(tmp_path) == files


def test_where_there_are_no_locks_that_is_said(undisturbed, tmp_path, monkeypatch):
    def unsupported(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.warns(UserWarning, match=r"cannot be locked \(Operation not supported\)"):
        convert(load_folder(undisturbed[0]), tmp_path, shard_megabytes=MEGABYTES)
    assert files_of(tmp_path) == undisturbed[1]


def test_the_lock_is_let_go_after_a_failure(undisturbed, tmp_path):
    begin(undisturbed[0], tmp_path)
    with (tmp_path / ".conversion/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", ["train/ash/000.jpg", "train/oak/007.jpg", "test/oak/009.jpg"])
def test_files_that_cannot_be_read_are_named_and_the_rest_is_kept(undisturbed, tmp_path, name):
    images, files = undisturbed
    shutil.copytree(images, tmp_path / "images")
    source = load_folder(tmp_path / "images")
    path = tmp_path / "images" / name
    path.rename(tmp_path / "away")
    path.symlink_to("nowhere")
    message = reason(source, tmp_path / "set", workers=1)
    assert f"Cannot convert {name!r}: the file cannot be read: No such file" in message
    assert not list((tmp_path / "set/.conversion").glob("*.partial"))
    path.unlink()
    (tmp_path / "away").rename(path)
    convert(source, tmp_path / "set", shard_megabytes=MEGABYTES)
    assert files_of(tmp_path / "set") == files


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_without_a_class_are_refused(tmp_path, label):
    class Listed(list):
        class_names = ("a", "b")

    records = Listed(Record(noise(i), i % 2, f"{i}.jpg") for i in range(200))
    wrong = Listed(records)
    wrong[101] = Record(b"x", label, "bad.jpg")
    assert f"'bad.jpg' has the label {label}, and with 2 classes labels go from 0 to 1" in reason(
        Splits(wrong, records), tmp_path / "set"
    )
    wrong.pop()
    wrong.class_names = ("a", "b", "c")
    assert "no images in the split 'test'" in reason(Splits(records, Listed()), tmp_path / "new")


def test_a_full_disk_is_told_and_what_is_whole_is_kept(tmp_path):
    records = [
        (f"{i:04d}.{suffix}", data)
        for i in range(20)
        for suffix, data in (("jpg", bytes(10_000 if i < 10 else 100_000)), ("cls", b"0"))
    ]
    write_tar(tmp_path / "images/train.tar", records)
    write_tar(tmp_path / "images/test.tar", samples([0]))
    limited = ["bash", "-c", 'ulimit -f 200; exec "$@"', "limited"]  # in units of 1,024 bytes
    command = [*limited, *NFX, "convert", str(tmp_path / "images"), str(tmp_path / "set"),
               "--workers", "1", "--shard-megabytes", "0.3"]  # fmt: skip
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1
    assert "Cannot write 'train-000" in process.stderr
    assert "File too large" in process.stderr
    assert "make room" in process.stderr
    kept = shards_in(tmp_path / "set")
    assert kept
    assert not list((tmp_path / "set/.conversion").glob("*.partial"))
    times = [(tmp_path / "set" / name).stat().st_mtime_ns for name in kept]
    seen = []
    convert(load_images(tmp_path / "images"), tmp_path / "set", shard_megabytes=0.3,
            progress=seen.append)  # fmt: skip
    assert seen[-1].kept > 0
    assert times == [(tmp_path / "set" / name).stat().st_mtime_ns for name in kept]
    verify_records(tmp_path / "set")


@pytest.mark.parametrize("fault", ["flip", "lose", "swap"])
def test_a_shard_that_reads_back_otherwise_is_not_kept(undisturbed, tmp_path, monkeypatch, fault):
    from array_record.python import array_record_module

    class Reader(array_record_module.ArrayRecordReader):
        def read(self, start, stop):
            payloads = super().read(start, stop)
            change = {"flip": [payloads[0] + b"\0", *payloads[1:]], "lose": payloads[1:],
                      "swap": [payloads[1], payloads[0], *payloads[2:]]}  # fmt: skip
            return change[fault]

    monkeypatch.setattr(array_record_module, "ArrayRecordReader", Reader)
    message = reason(load_folder(undisturbed[0]), tmp_path, workers=1)
    assert "what was read back differs from what was written" in message
    assert not shards_in(tmp_path)


def test_a_writer_that_fails_ends_the_shard_at_once(undisturbed, tmp_path, monkeypatch):
    from array_record.python import array_record_module

    written = []

    class Writer(array_record_module.ArrayRecordWriter):
        def write(self, payload):
            written.append(payload)
            super().write(payload)

        def ok(self):
            return len(written) < 5

        def close(self):
            super().close()
            raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Writer)
    message = reason(load_folder(undisturbed[0]), tmp_path, workers=1, shard_megabytes=100)
    assert "No space left on device" in message
    assert len(written) <= 6  # five of one shard, and one of the next


def test_the_command_says_what_it_did_and_what_comes_next(undisturbed, tmp_path, capsys):
    images, files = undisturbed
    root = tmp_path / "set"
    options = ["--shard-megabytes", str(MEGABYTES), "--workers", "2", "--verify"]
    assert main(["convert", str(images), str(root), *options]) == 0
    out = capsys.readouterr().out
    size = sum(len(data) for name, data in files.items() if name.endswith("array_record"))
    assert f"360 images to train and 30 images to test with, of 3 classes; {size:,} bytes" in out
    assert "All checksums are right" in out
    assert f"nfx train --data {root}" in out
    assert files_of(root) == files
    assert main(["convert", "--verify", str(root)]) == 0
    assert "All checksums are right" in capsys.readouterr().out
    path = root / shards_in(root)[1]
    path.write_bytes(path.read_bytes()[::-1])
    assert main(["convert", "--verify", str(root)]) == 1
    assert f"{path.name}: its checksum is wrong" in capsys.readouterr().err


def test_the_command_passes_its_options_on(tmp_path, capsys):
    write_tar(tmp_path / "in/train.tar", samples([0, 1]))
    write_tar(tmp_path / "in/val.tar", samples([1], first=5))
    write_tar(tmp_path / "in/test.tar", samples([0], first=6))
    (tmp_path / "names").write_text("elm\noak\n")
    options = ["--test-split", "val", "--class-names", str(tmp_path / "names")]
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out"), *options]) == 0
    found = load_records(tmp_path / "out").test
    assert [record.name for record in found] == ["val.tar/images/0005.jpg"]
    assert found.class_names == ("elm", "oak")
    for arguments, message in (
        ([str(tmp_path / "in")], "Say where to write what is converted"),
        ([str(tmp_path / "out"), str(tmp_path / "new")], "in nfx's own format already"),
        ([str(tmp_path / "in"), str(tmp_path / "out")], "holds a finished data set"),
        ([str(tmp_path / "in"), str(tmp_path / "new"), "--test-split", "x"], "No split 'x'"),
    ):
        assert main(["convert", *arguments]) == 1
        assert message in capsys.readouterr().err


def test_what_is_not_installed_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "train.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    assert main(["convert", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "`nfx convert` needs pyarrow" in capsys.readouterr().err


def test_the_command_imports_no_jax(undisturbed, tmp_path):
    code = """
import sys
from nfx.cli import main
assert main(sys.argv[1:]) == 0
heavy = {"jax", "equinox", "optax", "grain", "orbax", "pyarrow", "PIL"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    command = [sys.executable, "-c", code, "convert", str(undisturbed[0]), str(tmp_path / "set")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "set/dataset.json").read_text())["format"] == 1


def test_a_full_disk_is_said_and_a_size_is_the_same_however_it_is_written(tmp_path):
    images = write_folder(tmp_path / "images", CLASSES, 20) and load_folder(tmp_path / "images")
    with full_disk(10):
        assert "make room or mend the disk" in reason(images, tmp_path / "set", shard_megabytes=1)
    assert (tmp_path / "set/.conversion").exists()
    convert(images, tmp_path / "set", shard_megabytes=1)

    def stop(progress):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        convert(images, tmp_path / "other", shard_megabytes=1, progress=stop)
    convert(images, tmp_path / "other", shard_megabytes=1.0)
    assert files_of(tmp_path / "set") == files_of(tmp_path / "other")
