"""The order in which examples arrive, and folders of images."""

import dataclasses
import errno
import io
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nfx.data import (
    ArraySource,
    AsStored,
    BadImageError,
    evaluation_batches,
    Images,
    list_images,
    load_folder,
    load_sample,
    Loading,
    NoiseSource,
    open_sources,
    PADDING_LABEL,
    RandomCrop,
    Record,
    Source,
    Strings,
    training_batches,
)


def numbered(count, classes=3):
    """Images that say which they are."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    names = [f"class {i}" for i in range(classes)]
    return Images.from_arrays(images, np.arange(count) % classes, names)


def order(batches, steps):
    return [next(batches).images[:, 0, 0, 0].tolist() for _ in range(steps)]


def test_the_sample_is_stratified_photos():
    splits = load_sample()
    assert splits.train.image_shape == splits.test.image_shape == (28, 28, 1)
    for images, each in ((splits.train, 500), (splits.test, 100)):
        assert np.bincount(images.source.labels).tolist() == [each] * 10
    assert splits.train.class_names[9] == "Ankle boot"


def test_every_epoch_is_a_new_permutation():
    batches = training_batches(numbered(12), 4, seed=1)
    first, second = (np.ravel(order(batches, 3)).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert np.ravel(order(training_batches(numbered(12), 4, seed=2), 3)).tolist() != first


def encoded(seed, size=(40, 30)):
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class FileSource:
    """Encoded images, of which some may be broken, that say which they are by their labels."""

    def __init__(self, count, broken=()):
        self.class_names = [str(index) for index in range(count)]
        self.files = [b"broken" if i in broken else encoded(i) for i in range(count)]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return Record(self.files[index], index, f"file {index}")


def cropped(count, **options):
    return Images(FileSource(count), RandomCrop(16), **options)


def taken(batches, steps):
    """Images and labels of the next steps, stacked."""
    images, labels = zip(*(next(batches) for _ in range(steps)), strict=True)
    return np.stack(images), np.stack(labels)


# Larger than what a thread loads at a time, and no multiple of it.
BATCH, SEED = 44, 7


@pytest.fixture(scope="module")
def undisturbed():
    """What one host loads in its own thread: more than two epochs."""
    return taken(training_batches(cropped(60), BATCH, seed=SEED, loading=Loading(threads=0)), 4)


def test_crops_are_others_in_every_epoch(undisturbed):
    images, labels = (array.reshape(-1, *array.shape[2:]) for array in undisturbed)
    first, second = np.flatnonzero(labels == labels[0])[:2]
    assert (images[first] != images[second]).any()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("loading", [Loading(threads=0), Loading(threads=2)], ids=["0", "2"])
@pytest.mark.parametrize("first_step", [0, 3])
def test_parts_threads_and_resuming_change_no_pixel(undisturbed, count, loading, first_step):
    parts = [
        training_batches(
            cropped(60), BATCH, seed=SEED, first_step=first_step, part=part, parts=count,
            loading=loading,
        )
        for part in range(count)
    ]  # fmt: skip
    for found, expected in zip(
        zip(*(taken(part, 4 - first_step) for part in parts), strict=True), undisturbed, strict=True
    ):
        np.testing.assert_array_equal(np.concatenate(found, axis=1), expected[first_step:])


@pytest.mark.slow  # processes that import everything
@pytest.mark.parametrize("first_step", [0, 3])
def test_worker_processes_change_no_pixel(undisturbed, first_step):
    loading = Loading(threads=1, workers=2)
    batches = training_batches(
        cropped(60), BATCH, seed=SEED, first_step=first_step, loading=loading
    )
    for found, expected in zip(taken(batches, 4 - first_step), undisturbed, strict=True):
        np.testing.assert_array_equal(found, expected[first_step:])
    test = [batch.labels for batch in evaluation_batches(cropped(60), BATCH, loading=loading)]
    assert np.concatenate(test).tolist() == [*range(60), *[PADDING_LABEL] * 28]


@pytest.mark.slow
def test_worker_processes_say_which_image_is_bad():
    images = Images(FileSource(12, BROKEN), RandomCrop(8))
    with pytest.raises(BadImageError, match=r"Image \d+, 'file \d+', cannot be used"):
        taken(training_batches(images, 12, seed=0, loading=Loading(workers=1)), 1)


@dataclasses.dataclass(frozen=True)
class CountedSource:
    """Images, and a file that grows by a byte with each that is read, in any process."""

    path: Path
    class_names: tuple[str, ...] = ("one",)

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        with self.path.open("ab", buffering=0) as file:
            file.write(b"x")
        return Record(np.zeros((2, 2, 1), np.uint8), 0, "")


@pytest.mark.slow
def test_what_is_loaded_ahead_does_not_grow_with_the_workers(tmp_path):
    path = tmp_path / "count"
    images = Images(CountedSource(path), AsStored((2, 2, 1)))
    batches = training_batches(images, 256, seed=0, loading=Loading(threads=1, workers=3))
    next(batches)
    loaded = 0
    while loaded < (loaded := path.stat().st_size):
        time.sleep(1)
    # The batch that was taken, two ahead, and one that is on its way between the processes.
    assert 2 * 256 < loaded <= 4 * 256


ENDLESS = """
import multiprocessing
from nfx.data import *
if __name__ == "__main__":
    images = Images(NoiseSource(100, (8, 8, 3)), AsStored((8, 8, 3)))
    batches = training_batches(images, 10, seed=0, loading=Loading(workers=2))
    for _ in range(9):  # some of each worker
        next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    while True:
        next(batches)
"""


@pytest.mark.slow
def test_worker_processes_end_with_the_one_they_work_for(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        workers = [Path(f"/proc/{pid}") for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        for number in (signal.SIGINT, signal.SIGTERM):  # as Ctrl-C or SLURM send to all
            for worker in workers:
                os.kill(int(worker.name), number)
        time.sleep(0.5)
        assert all(runs(worker) for worker in workers)
        process.kill()
        deadline = time.monotonic() + 20
        while any(runs(worker) for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def runs(process):
    """Whether a process is there, and not only its entry that nobody has fetched."""
    try:
        return ") Z " not in (process / "stat").read_text()
    except OSError:
        return False


ORPHAN = """
import multiprocessing, os, signal, time
from nfx.data._loading import _follow_parent
def work(parent):
    while os.getppid() == parent:
        time.sleep(0.01)
    _follow_parent(0, 1)
    time.sleep(60)
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=work, args=(os.getpid(),))
    worker.start()
    print(worker.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_process_ends_if_the_other_was_gone_before_it_began(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    command = [sys.executable, script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        worker = Path(f"/proc/{process.stdout.readline().strip()}")
    deadline = time.monotonic() + 20
    while runs(worker):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(("batch_size", "parts"), [(30, 1), (0, 1), (4, 3)])
def test_batches_that_cannot_be_are_refused(batch_size, parts):
    with pytest.raises(
        ValueError, match=f"batch_size={batch_size} must be a multiple of parts={parts}"
    ):
        training_batches(numbered(20), batch_size, seed=0, parts=parts)


@pytest.mark.parametrize("numbers", [{"threads": -1}, {"workers": -1}])
def test_nobody_loads_with_fewer_than_no_threads(numbers):
    with pytest.raises(ValueError, match="at least 0"):
        Loading(**numbers)


@pytest.mark.parametrize(
    ("count", "size", "parts"), [(10, 4, 1), (10, 4, 2), (9, 8, 2), (3, 4, 4), (50, 36, 2)]
)
@pytest.mark.parametrize("threads", [0, 2])
def test_evaluation_sees_every_image_once(count, size, parts, threads):
    seen, steps = [], set()
    for part in range(parts):
        batches = list(
            evaluation_batches(
                numbered(count), size, part=part, parts=parts, loading=Loading(threads=threads)
            )
        )
        steps.add(len(batches))
        for batch in batches:
            assert batch.images.shape == (size // parts, 2, 2, 1)
            seen += batch.images[batch.labels != PADDING_LABEL, 0, 0, 0].tolist()
    assert sorted(seen) == list(range(count))
    assert steps == {-(-count // size)}


def test_only_so_many_images_are_held_in_memory():
    """At 1.28 million images as at a thousand: what is loaded ahead is two batches."""

    def peak(count):
        images = Images(NoiseSource(count, (32, 32, 3)), AsStored((32, 32, 3)))
        tracemalloc.start()
        batches = training_batches(images, 64, seed=0, loading=Loading(threads=2))
        for _ in range(20):
            next(batches)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    batch = 64 * 32 * 32 * 3
    peak(1_000)  # imports
    assert max(peak(1_281_167), peak(1_000)) < 7 * batch


BLANK = np.zeros((2, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (BLANK, [0, 3], "the first is 3, at index 1, and with 3 classes labels go from 0 to 2"),
        (BLANK, [-1, 0], "1 of 2 labels are out of range: the first is -1"),
        (BLANK[..., 0], [0, 1], "got uint8 of shape (2, 4, 4)"),
        (BLANK.astype(np.float32), [0, 1], "got float32"),
        (BLANK, [0], "need labels of shape (2,), integers; got int64 of shape (1,)"),
    ],
)
def test_arrays_that_are_no_labelled_images_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=r"labels|Images") as error:
        ArraySource(images, np.asarray(labels), ["a", "b", "c"])
    assert message in str(error.value)


class LyingSource(ArraySource):
    """A user's own source, with a label that has no class."""

    def __getitem__(self, index):
        return super().__getitem__(index)._replace(label=7)


def test_labels_of_any_source_are_checked_as_they_come():
    good = numbered(8).source
    source = LyingSource(good.images, good.labels, good.class_names)
    assert isinstance(source, Source)
    images = Images(source, AsStored((2, 2, 1)), "skip")  # it is no bad image: nothing to skip
    with pytest.raises(ValueError, match=r"'image \d', has the label 7, and with 3 classes"):
        next(training_batches(images, 4, seed=0))
    with pytest.raises(ValueError, match="has the label 7"):
        next(evaluation_batches(images, 4))


BROKEN = frozenset({2, 5, 11})


def test_a_bad_image_is_named():
    images = Images(FileSource(12, BROKEN), RandomCrop(8))
    with pytest.raises(
        BadImageError, match=r"Image 5, 'file 5', cannot be used: .+ Repair"
    ) as error:
        images.load(5, np.random.default_rng(0))
    assert error.value.bad.index == 5
    with pytest.raises(BadImageError, match=r"Image \d+, 'file"):
        taken(training_batches(images, 12, seed=0), 1)
    with pytest.raises(BadImageError, match="'file 2'"):
        list(evaluation_batches(images, 4))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("threads", [0, 2])
def test_bad_images_are_skipped_for_the_same_others_everywhere(count, threads):
    images = Images(FileSource(12, BROKEN), RandomCrop(8), "skip")
    expected = training_batches(images, 12, seed=0)
    found = []
    parts = [
        training_batches(
            images, 12, seed=0, part=part, parts=count, on_skip=found.append,
            loading=Loading(threads=threads),
        )
        for part in range(count)
    ]  # fmt: skip
    for _ in range(2):
        batch = next(expected)
        mine = [next(part) for part in parts]
        np.testing.assert_array_equal(np.concatenate([m.images for m in mine]), batch.images)
        np.testing.assert_array_equal(np.concatenate([m.labels for m in mine]), batch.labels)
        assert not BROKEN & set(batch.labels.tolist())
    assert {bad.index for bad in found} == BROKEN
    assert len(found) >= 2 * len(BROKEN)  # in each of two epochs
    assert {bad.name for bad in found} == {f"file {index}" for index in BROKEN}


def test_where_all_images_are_bad_none_is_skipped():
    images = Images(FileSource(4, range(4)), RandomCrop(8), "skip")
    with pytest.raises(BadImageError, match="Nor can the 10 before it") as error:
        next(training_batches(images, 4, seed=0))
    assert "--bad-images" not in str(error.value)


def test_bad_images_do_not_count_in_evaluation():
    images = Images(FileSource(12, BROKEN), RandomCrop(8), "skip")
    found = []
    batches = list(evaluation_batches(images, 8, on_skip=found.append))
    labels = np.concatenate([batch.labels for batch in batches])
    assert sorted(set(labels.tolist())) == sorted({PADDING_LABEL, *range(12)} - BROKEN)
    assert [bad.index for bad in found] == sorted(BROKEN)


def test_noise_is_the_same_every_time():
    source = NoiseSource(10, (4, 5, 3), num_classes=3)
    image, label, _ = source[7]
    assert (image.shape, image.dtype, label) == ((4, 5, 3), np.uint8, 1)
    np.testing.assert_array_equal(image, source[7].image)
    assert (image != source[6].image).any()


def test_strings_are_what_was_put_in():
    given = ["a", "", "ä/ö.jpg", "\udcff.jpg", "x" * 300]
    strings = Strings(given)
    assert list(strings) == given
    assert strings[-1] == given[-1]
    assert strings[1:3] == given[1:3]
    with pytest.raises(IndexError):
        strings[5]


def test_a_million_names_take_less_than_a_hundred_megabytes():
    names = [
        f"n{index // 130:08}/n{index // 130:08}_{index % 130:05}.JPEG" for index in range(26_000)
    ]
    tracemalloc.start()
    strings = Strings(names)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(strings) == len(names)
    assert size / len(names) * 1_281_167 < 80e6


def write_images(folder, count, color=(255, 0, 0), size=(20, 10)):
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", size, color).save(folder / f"{index:02}.png")


def pixels(source, index):
    return np.asarray(Image.open(io.BytesIO(source[index].image)))


def test_folders_may_have_a_test_set(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        write_images(tmp_path / split / "cat", count)
        write_images(tmp_path / split / "dog", count, (0, 0, 255))
    splits = load_folder(tmp_path)
    assert (len(splits.train), len(splits.test)) == (6, 4)
    assert splits.train.class_names == ["cat", "dog"]
    assert splits.test[3].label == 1
    assert splits.test[3].name == "test/dog/01.png"
    np.testing.assert_array_equal(
        np.unique(pixels(splits.test, 3).reshape(-1, 3), axis=0), [[0, 0, 255]]
    )
    assert splits.test[3].image == (tmp_path / "test" / "dog" / "01.png").read_bytes()


@pytest.mark.parametrize("folder", ["", "train"])
def test_files_that_are_no_images_are_counted_once_and_not_taken(tmp_path, folder):
    for name in ("cat", "dog"):
        write_images(tmp_path / folder / name, 10)
        (tmp_path / folder / name / "notes.TXT").write_text("")
        (tmp_path / folder / name / ".hidden").write_text("")
        if folder:
            write_images(tmp_path / "test" / name, 1)
    (tmp_path / folder / "dog" / "README").write_text("")
    splits = load_folder(tmp_path)
    assert dict(splits.train.other_files) == {".txt": 2, "no suffix": 1}
    assert not splits.test.other_files
    assert len(splits.train) == (20 if folder else 18)


def test_labels_of_a_test_set_are_those_of_the_training_set(tmp_path):
    for name in ("cat", "dog", "emu"):
        write_images(tmp_path / "train" / name, 1)
    write_images(tmp_path / "val" / "emu", 2)
    splits = load_folder(tmp_path)
    assert [splits.test[index].label for index in range(2)] == [2, 2]
    assert splits.test.class_names == ["cat", "dog", "emu"]


def test_a_test_folder_without_classes_gives_way_to_validation(tmp_path):
    for split in ("train", "validation"):
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, 2)
    write_images(tmp_path / "test", 3)
    assert load_folder(tmp_path).test.names[0] == "validation/cat/00.png"


def test_a_folder_that_cannot_be_read_is_named_and_not_left_out(tmp_path, monkeypatch):
    for name in ("cat", "dog", "emu"):
        write_images(tmp_path / name, 10)
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("emu"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"folder '.*emu' cannot be read: Permission denied"):
        load_folder(tmp_path)


def test_folders_without_a_test_set_hold_every_tenth_out(tmp_path):
    write_images(tmp_path / "cat" / "deep", 20)
    write_images(tmp_path / "dog", 10)
    splits = load_folder(tmp_path)
    assert (len(splits.train), len(splits.test)) == (27, 3)
    assert list(splits.test.names) == ["cat/deep/09.png", "cat/deep/19.png", "dog/09.png"]
    assert not set(splits.train.names) & set(splits.test.names)
    assert [splits.test[index].label for index in range(3)] == [0, 0, 1]


def test_what_is_hidden_is_no_image(tmp_path):
    for name in ("cat", "dog"):
        write_images(tmp_path / name, 10)
        (tmp_path / name / "._00.png").write_bytes(b"left by a Macintosh")
        write_images(tmp_path / name / ".ipynb_checkpoints", 1)
    write_images(tmp_path / ".trash", 10)
    splits = load_folder(tmp_path)
    assert (len(splits.train), len(splits.test)) == (18, 2)
    assert splits.train.class_names == ["cat", "dog"]
    assert len(list_images([tmp_path])) == 20


def test_folders_that_are_no_data_set_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"No folder '.*missing'"):
        load_folder(tmp_path / "missing")
    write_images(tmp_path / "one" / "cat", 20)
    with pytest.raises(ValueError, match=r"has 1 classes to train on \(cat\)"):
        load_folder(tmp_path / "one")
    write_images(tmp_path / "half" / "train" / "cat", 1)
    with pytest.raises(ValueError, match="none of 'test', 'val', 'valid', 'validation' with"):
        load_folder(tmp_path / "half")
    write_images(tmp_path / "half" / "train" / "dog", 1)
    write_images(tmp_path / "half" / "val" / "bird", 1)
    with pytest.raises(ValueError, match="of which bird only to test with"):
        load_folder(tmp_path / "half")


@pytest.mark.parametrize("splits", [("Train", "Test"), ("training", "validation")])
def test_splits_are_not_taken_for_classes(tmp_path, splits):
    for split in splits:
        write_images(tmp_path / split / "cat", 12)
        write_images(tmp_path / split / "dog", 12)
    with pytest.raises(ValueError, match=r"says splits and not classes\. Rename them"):
        load_folder(tmp_path)


def test_links_to_folders_are_followed_but_never_for_ever(tmp_path):
    write_images(tmp_path / "elsewhere", 12)
    for name in ("cat", "dog"):
        write_images(tmp_path / "images" / name, 12)
    (tmp_path / "images" / "cow").symlink_to(tmp_path / "elsewhere")
    assert len(load_folder(tmp_path / "images").train) == 33
    loop = tmp_path / "images" / "cat" / "loop"
    for target in (".", "..", "../.."):
        loop.symlink_to(target)
        with pytest.raises(ValueError, match="is a link to a folder that it is in"):
            load_folder(tmp_path / "images")
        loop.unlink()


def test_parts_and_noise_end(tmp_path):
    images = Images(NoiseSource(8, (2, 2, 3)), AsStored((2, 2, 3)))
    for load in (lambda **how: training_batches(images, 4, seed=0, **how),
                 lambda **how: evaluation_batches(images, 4, **how)):  # fmt: skip
        with pytest.raises(ValueError, match="part=1 must be from 0 to 0"):
            next(load(part=1, parts=1))
    assert len(list(NoiseSource(3, (2, 2, 3)))) == 3


def test_a_file_that_has_gone_is_named(tmp_path):
    write_images(tmp_path / "cat", 12)
    write_images(tmp_path / "dog", 12)
    images = Images(load_folder(tmp_path).train, RandomCrop(8))
    (tmp_path / "cat" / "00.png").unlink()
    with pytest.raises(
        BadImageError, match=r"Image 0, 'cat/00.png', cannot be used: the file cannot"
    ):
        images.load(0, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["000.tar", "train.parquet", "data/train.parquet"])
def test_what_has_to_be_converted_says_so(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match="nfx convert"):
        open_sources(tmp_path)


def test_images_are_listed_in_order(tmp_path):
    write_images(tmp_path / "b", 2)
    write_images(tmp_path / "a" / "c", 1)
    (tmp_path / "notes.txt").touch()
    assert [str(path.relative_to(tmp_path)) for path in list_images([tmp_path])] == [
        "a/c/00.png", "b/00.png", "b/01.png",
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="No images in"):
        list_images([tmp_path / "empty"])
    with pytest.raises(ValueError, match="No file or folder"):
        list_images([tmp_path / "missing"])
