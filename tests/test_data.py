import numpy as np
import pytest
from PIL import Image

from nfx.data import (
    ArraySource,
    evaluation_batches,
    load_folder,
    load_sample,
    PADDING_LABEL,
    training_batches,
)


def numbered(count, classes=3):
    """Images that say which they are."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    return ArraySource(images, np.arange(count) % classes, [f"class {i}" for i in range(classes)])


def order(batches, steps):
    return [next(batches).images[:, 0, 0, 0].tolist() for _ in range(steps)]


def test_the_sample_is_stratified_photos():
    splits = load_sample()
    assert splits.train.image_shape == splits.test.image_shape == (28, 28, 1)
    for source, each in ((splits.train, 500), (splits.test, 100)):
        assert np.bincount(source.labels).tolist() == [each] * 10
    assert splits.train.class_names[9] == "Ankle boot"


def test_every_epoch_is_a_new_permutation():
    batches = training_batches(numbered(12), 4, seed=1)
    first, second = (np.ravel(order(batches, 3)).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert np.ravel(order(training_batches(numbered(12), 4, seed=2), 3)).tolist() != first


@pytest.mark.parametrize("threads", [1, 4])
def test_resuming_slices_the_order(threads):
    whole = order(training_batches(numbered(10), 4, seed=0), 9)
    resumed = training_batches(numbered(10), 4, seed=0, first_step=5, threads=threads)
    assert order(resumed, 4) == whole[5:]


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_what_one_host_would_get(hosts):
    whole = order(training_batches(numbered(20), 8, seed=0), 4)
    parts = [training_batches(numbered(20), 8, seed=0, host=h, hosts=hosts) for h in range(hosts)]
    np.testing.assert_array_equal(np.concatenate([order(p, 4) for p in parts], axis=1), whole)


@pytest.mark.parametrize(("batch_size", "hosts"), [(30, 1), (0, 1), (4, 3)])
def test_batches_that_cannot_be_are_refused(batch_size, hosts):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must be a multiple of {hosts}"):
        training_batches(numbered(20), batch_size, seed=0, hosts=hosts)


@pytest.mark.parametrize(("count", "size", "hosts"), [(10, 4, 1), (10, 4, 2), (9, 8, 2), (3, 4, 4)])
def test_evaluation_sees_every_image_once(count, size, hosts):
    seen, steps = [], set()
    for host in range(hosts):
        batches = list(evaluation_batches(numbered(count), size, host=host, hosts=hosts))
        steps.add(len(batches))
        for batch in batches:
            assert batch.images.shape == (size // hosts, 2, 2, 1)
            seen += batch.images[batch.labels != PADDING_LABEL, 0, 0, 0].tolist()
    assert sorted(seen) == list(range(count))
    assert steps == {-(-count // size)}


BLANK = np.zeros((2, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (BLANK, [0, 3], "the first is 3, at index 1, and with 3 classes labels go from 0 to 2"),
        (BLANK, [-1, 0], "1 of 2 labels are out of range: the first is -1"),
        (BLANK[..., 0], [0, 1], "got uint8 of shape (2, 4, 4)"),
        (BLANK.astype(np.float32), [0, 1], "got float32"),
        (BLANK, [0], "need labels of shape (2,); got (1,)"),
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
    good = numbered(8)
    source = LyingSource(good.images, good.labels, good.class_names)
    with pytest.raises(ValueError, match="the first is 7, at index 0, and with 3 classes"):
        next(training_batches(source, 4, seed=0))
    with pytest.raises(ValueError, match="the first is 7"):
        next(evaluation_batches(source, 4))


def write_images(folder, count, color=(255, 0, 0), size=(20, 10)):
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", size, color).save(folder / f"{index:02}.png")


def test_folders_with_a_test_set(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        write_images(tmp_path / split / "cat", count)
        write_images(tmp_path / split / "dog", count, (0, 0, 255))
    splits = load_folder(tmp_path, image_size=8)
    assert (len(splits.train), len(splits.test)) == (6, 4)
    assert splits.train.class_names == ["cat", "dog"]
    image, label = splits.test[3]
    assert (label, image.shape) == (1, (8, 8, 3))
    np.testing.assert_array_equal(np.unique(image.reshape(-1, 3), axis=0), [[0, 0, 255]])
    assert load_folder(tmp_path, image_size=8, channels=1).train[0].image.shape == (8, 8, 1)


def test_folders_without_a_test_set_hold_every_tenth_out(tmp_path):
    write_images(tmp_path / "cat", 20)
    write_images(tmp_path / "dog", 10)
    splits = load_folder(tmp_path, image_size=8)
    assert (len(splits.train), len(splits.test)) == (27, 3)
    assert [file.name for file in splits.test.files] == ["09.png", "19.png", "09.png"]
    assert not set(splits.train.files) & set(splits.test.files)


def test_folders_that_are_no_data_set_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"No folder '.*missing'"):
        load_folder(tmp_path / "missing", image_size=8)
    write_images(tmp_path / "one" / "cat", 20)
    with pytest.raises(ValueError, match=r"has 1 classes to train on \(cat\)"):
        load_folder(tmp_path / "one", image_size=8)
    write_images(tmp_path / "half" / "train" / "cat", 1)
    with pytest.raises(ValueError, match="neither 'test' nor 'val'"):
        load_folder(tmp_path / "half", image_size=8)
    write_images(tmp_path / "half" / "train" / "dog", 1)
    write_images(tmp_path / "half" / "val" / "bird", 1)
    with pytest.raises(ValueError, match="of which bird only to test with"):
        load_folder(tmp_path / "half", image_size=8)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    write_images(tmp_path / "cat", 12)
    write_images(tmp_path / "dog", 12)
    victim = tmp_path / "cat" / "00.png"
    victim.write_bytes(victim.read_bytes()[:40] if content is None else content)
    splits = load_folder(tmp_path, image_size=8)
    with pytest.raises(ValueError, match=r"Cannot read '.*00\.png' as an image"):
        splits.train[0]
