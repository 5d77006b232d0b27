"""What can be converted: folders, tars and parquet give the same images in the same order."""

import json
import pickle
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nfx.data import (
    convert,
    ImageError,
    load_images,
    load_parquet,
    load_records,
    load_tars,
    open_sources,
    read_class_names,
    Record,
)
from tests.datasets import noise, samples, write_folder, write_parquet, write_tar


def converted(root, destination, **options):
    """What is read back, as lists of records, and the names of the classes."""
    convert(load_images(root, **options), destination, shard_megabytes=0.002)
    found = load_records(destination)
    assert found.train.class_names == found.test.class_names
    return tuple(map(list, found)), found.train.class_names


def tar_records(tar, labels, first=0):
    return [
        Record(noise(number), label, f"{tar}/images/{number:04d}.jpg")
        for number, label in enumerate(labels, first)
    ]


def parquet_records(labels, first=0):
    return [
        Record(noise(number), label, f"{number:04d}.jpg")
        for number, label in enumerate(labels, first)
    ]


def every_tenth(records):
    """The records to train on and those held out, by counting each class."""
    counts, splits = {}, ([], [])
    for record in records:
        counts[record.label] = counts.get(record.label, 0) + 1
        splits[counts[record.label] % 10 == 0].append(record)
    return splits


@pytest.mark.parametrize("split", ["test", "val"])
def test_folders_are_converted(tmp_path, split):
    train = write_folder(tmp_path / "in/train", ["ash", "elm"], 30, prefix="train/")
    test = write_folder(tmp_path / f"in/{split}", ["ash", "elm"], 4, first=90, prefix=f"{split}/")
    found, names = converted(tmp_path / "in", tmp_path / "out")
    assert found == (train, test)
    assert names == ("ash", "elm")


@pytest.mark.parametrize("load", [open_sources, load_images])
def test_the_archives_of_a_folder_may_be_beside_it(tmp_path, load):
    write_folder(tmp_path / "in/train", ["ash", "elm"], 30)
    write_folder(tmp_path / "in/test", ["ash", "elm"], 4)
    write_tar(tmp_path / "in/train.tar", [("images/ash/0.jpg", b"")])
    assert [len(source) for source in load(tmp_path / "in")] == [60, 8]


def test_folders_without_a_test_folder_lose_every_tenth_image(tmp_path):
    records = write_folder(tmp_path / "in", ["ash", "elm", "oak"], 25)
    found, names = converted(tmp_path / "in", tmp_path / "out", class_names=["a", "e", "o"])
    assert found == every_tenth(records)
    assert names == ("a", "e", "o")
    with pytest.raises(ValueError, match="2 names for the 3 classes"):
        load_images(tmp_path / "in", class_names=["a", "e"])


def test_which_folder_is_to_test_with_is_said(tmp_path):
    write_folder(tmp_path / "flat", ["ash", "elm"], 10)
    with pytest.raises(ValueError, match=r"every tenth image of a class is held out\. Leave"):
        load_images(tmp_path / "flat", test_split="test")
    write_folder(tmp_path / "two/train", ["ash", "elm"], 1)
    write_folder(tmp_path / "two/val", ["ash", "elm"], 1)
    for name in ("val", "validation"):
        assert len(load_images(tmp_path / "two", test_split=name).test) == 2
    with pytest.raises(ValueError, match=r"are those in '.*val', not of 'test'"):
        load_images(tmp_path / "two", test_split="test")


def test_tars_may_have_numbers_as_labels(tmp_path):
    labels = [2, 0, 1, 0, 2, 2, 1]
    write_tar(tmp_path / "in/train-0001.tar", samples(labels[3:], first=3))
    write_tar(tmp_path / "in/train-0000.tar", samples(labels[:3]))
    write_tar(tmp_path / "in/test-0000.tar", samples([1, 0], first=50))
    found, names = converted(tmp_path / "in", tmp_path / "out")
    first, second = (
        tar_records(f"train-000{i}.tar", labels[3 * i :][: 3 + i], 3 * i) for i in (0, 1)
    )
    assert found == (first + second, tar_records("test-0000.tar", [1, 0], 50))
    assert names == ("0", "1", "2")


@pytest.mark.parametrize("suffix", ["cls", "json"])
def test_tars_may_have_names_as_labels(tmp_path, suffix):
    wrap = {"cls": lambda name: f"{name}\n".encode(),
            "json": lambda name: json.dumps({"label": name, "x": 1}).encode()}[suffix]  # fmt: skip
    write_tar(
        tmp_path / "in/set-train-0.tar", samples(["oak", "elm"] * 3, suffix=suffix, wrap=wrap)
    )
    write_tar(tmp_path / "in/set-val-0.tar", samples(["oak"], first=9, suffix=suffix, wrap=wrap))
    found, names = converted(tmp_path / "in", tmp_path / "out")
    assert found[0] == tar_records("set-train-0.tar", [1, 0] * 3)
    assert found[1] == tar_records("set-val-0.tar", [1], 9)
    assert names == ("elm", "oak")


def test_labels_are_numbers_only_if_all_are(tmp_path):
    for texts, names in (
        (["2020_01", "2020_02"], ("2020_01", "2020_02")),
        (["10", "9", "b"], ("10", "9", "b")),
        (["10" * 5, "9"], ("1010101010", "9")),
        (["1", "02"], ("0", "1", "2")),
    ):
        write_tar(tmp_path / "train.tar", samples(texts * 10))
        assert tuple(load_images(tmp_path).train.class_names) == names


@pytest.mark.parametrize("source", ["classes.txt", "classnames.txt", "option"])
@pytest.mark.parametrize("named", [True, False])
def test_names_of_classes_are_given(tmp_path, source, named):
    names = ["oak", "ash", "elm"]
    labels = [0, 2] * 10
    write_tar(tmp_path / "in/0.tar", samples([names[i] for i in labels] if named else labels))
    if source != "option":
        (tmp_path / "in" / source).write_text("\n".join(names) + "\n")
    option = names if source == "option" else None
    found, names = converted(tmp_path / "in", tmp_path / "out", class_names=option)
    assert found == every_tenth(tar_records("0.tar", labels))
    assert names == ("oak", "ash", "elm")


def test_samples_of_several_files_and_odd_names_are_read(tmp_path):
    members = [("a.b/x.y.jpg", b"not this"), ("a.b/x.PNG", b"image"),
               ("a.b/x.json", b'{"label": 1}'), ("a.b/x.txt", b"a caption"),
               ("z.cls", b"0"), ("z.jpeg", b"")]  # fmt: skip
    write_tar(tmp_path / "in/train.tar", members)
    write_tar(
        tmp_path / "in/test.tar", [("long" * 50 + ".webp", b"w"), ("long" * 50 + ".cls", b"1")]
    )
    found, _ = converted(tmp_path / "in", tmp_path / "out")
    assert found[0] == [
        Record(b"image", 1, "train.tar/a.b/x.PNG"),
        Record(b"", 0, "train.tar/z.jpeg"),
    ]
    assert found[1] == [Record(b"w", 1, f"test.tar/{'long' * 50}.webp")]


def test_tars_are_read_by_copies_of_the_source(tmp_path):
    write_tar(tmp_path / "train.tar", samples([0, 1] * 10))
    source = load_images(tmp_path).train
    assert list(map(pickle.loads(pickle.dumps(source)).__getitem__, range(18))) == [
        source[index] for index in range(18)
    ]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("k.jpg", b"i")], r"1 of 1 images have no label; the first is train.tar/k.jpg"),
        ([("k.jpg", b"i"), ("k.cls", b"-1")], "1 of 1 images have no label"),
        ([("k.cls", b"0")], "sample 'k' of train.tar has 0 images, in files that end in cls"),
        ([("k.jpg", b"i"), ("k.png", b"j")], "sample 'k' of train.tar has 2 images"),
        ([("k.jpg", b"i"), ("k.jpg", b"j")], "train.tar has two files 'k.jpg'"),
        ([("k.jpg", b"i"), ("k.json", b"{")], "label of sample 'k' of train.tar cannot be read"),
        ([("k.jpg", b"i"), ("k.json", b"[]")], "label of sample 'k' of train.tar cannot be read"),
        ([("k.jpg", b"i"), ("k.json", b"{}")], "1 of 1 images have no label"),
        ([("k.jpg", b"i"), ("k.cls", b"")], "1 of 1 images have no label"),
        ([("k.jpg", b"i"), ("k.json", b'{"label": [3]}')], r"it is \[3\], and neither a whole"),
        ([("k.jpg", b"i"), ("k.cls", b"20240131")], "up to 20240131, which would make as many"),
    ],
)
def test_bad_samples_are_named(tmp_path, members, message):
    write_tar(tmp_path / "train.tar", members)
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_in_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        member = tarfile.TarInfo("k.jpg")
        member.type, member.linkname = kind, "other.jpg"
        tar.addfile(member)
    with pytest.raises(ValueError, match=r"has 'k.jpg' as a link .* --hard-dereference"):
        load_images(tmp_path)


def test_labels_are_numbers_in_all_splits_or_in_none(tmp_path):
    """A test set may have those classes only whose names are numbers."""
    names = ["1", "2", "3", "other"]
    write_tar(tmp_path / "train.tar", samples(names * 5))
    write_tar(tmp_path / "test.tar", samples(["1", "2"], first=50))
    found = load_images(tmp_path)
    assert found.test.class_names == names
    assert found.test.labels.tolist() == [0, 1]
    for path, labels in (("train", ["1", "2", "3"] * 5), ("test", ["3", "1"])):
        write_tar(tmp_path / f"{path}.tar", samples(labels))
    found = load_images(tmp_path, class_names=["1", "2", "3"])
    assert found.test.labels.tolist() == [2, 0]


def test_labels_of_parquet_are_whole_numbers_or_strings(tmp_path):
    path = tmp_path / "train.parquet"
    write_parquet(path, [0.0, 1.0, 10.0] * 10, kind=pa.float64())
    assert load_images(tmp_path).train.labels.max() == 10
    for labels, kind, message in (
        ([0.0, float("nan")] * 10, pa.float64(), "10 of 20 images have no label"),
        ([0.5, 1.0] * 10, pa.float64(), r"A label of train\.parquet is no number of a class"),
        ([0, 2**40] * 10, pa.int64(), r"A label of train\.parquet is no number of a class"),
        ([[1], [2]] * 10, pa.list_(pa.int64()), "are of type list"),
    ):
        write_parquet(path, labels, kind=kind)
        with pytest.raises(ValueError, match=message):
            load_images(tmp_path)


def test_what_is_hidden_or_has_no_suffix_is_no_part_of_a_tar(tmp_path):
    write_tar(tmp_path / "plain/train.tar", samples([0, 1] * 10))
    left = [("./._0000.jpg", b"left by a Macintosh"), (".DS_Store", b"x"), ("README", b"images")]
    members = [(f"./{name}", data) for name, data in samples([0, 1] * 10)]
    write_tar(tmp_path / "other/train.tar", [*left, *members, (".hidden/k.jpg", b"x")])
    (tmp_path / "other/._train.tar").write_bytes(b"left by a Macintosh")
    plain, other = (load_images(tmp_path / name) for name in ("plain", "other"))
    for split, of_plain in plain.items():
        found = dict(other.items())[split]
        assert [found[i].image for i in range(len(found))] == [
            of_plain[i].image for i in range(len(of_plain))
        ]


def test_of_names_as_labels_none_may_be_of_two_classes(tmp_path):
    write_tar(tmp_path / "train.tar", samples(["ash", "elm"] * 10))
    with pytest.raises(ValueError, match="Classes 0 and 2 are both called 'ash'"):
        load_images(tmp_path, class_names=["ash", "elm", "ash"])
    with pytest.raises(ValueError, match=r"has the label 'elm', and the 2 classes are ash, oak"):
        load_images(tmp_path, class_names=["ash", "oak"])


@pytest.mark.parametrize("load", [load_tars, load_parquet])
def test_a_missing_folder_is_named(tmp_path, load):
    with pytest.raises(ValueError, match=r"No folder '.*missing'. Expected one with"):
        load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog", ["cat", "dog"]),
        ("cat\r\ndog\r\n\r\n \n", ["cat", "dog"]),
        ("\ufeffcat\ncat\n", ["cat", "cat"]),
    ],
)
def test_names_of_classes_are_the_lines_of_a_file(tmp_path, text, names):
    (tmp_path / "names.txt").write_text(text, encoding="utf-8", newline="")
    assert read_class_names(tmp_path / "names.txt") == names


def test_a_blank_line_is_no_name_of_a_class(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    with pytest.raises(ValueError, match=r"Line 2 of '.*names.txt' is blank"):
        read_class_names(tmp_path / "names.txt")


def test_damaged_tars_are_refused(tmp_path):
    path = tmp_path / "train.tar"
    write_tar(path, samples([0, 1] * 10))
    data = path.read_bytes()
    ends = [number for number in range(0, len(data), 512) if not any(data[number : number + 1024])]
    for size in (100, 512, 1024, 5 * 512, ends[0]):  # in and between headers and contents
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"train\.tar cannot be read as a tar"):
            load_images(tmp_path)
    path.write_bytes(data[:4096] + b"?" + data[4097:])
    with pytest.raises(ValueError, match="damaged or cut off at byte 4096"):
        load_images(tmp_path)
    path.write_bytes(data)
    source = load_images(tmp_path).train
    path.write_bytes(data[:1600])
    with pytest.raises(ImageError, match="the tar ends in this file"):
        source[0]


@pytest.mark.parametrize("row_group_size", [1, 3, 100])
def test_parquet_of_hugging_face_is_read(tmp_path, row_group_size):
    labels = [2, 0, 1, 0, 2, 2, 1]
    names = ["oak", "ash", "elm"]
    options = {"names": names, "row_group_size": row_group_size}
    write_parquet(tmp_path / "in/data/train-00000-of-00002.parquet", labels[:3], **options)
    write_parquet(tmp_path / "in/data/train-00001-of-00002.parquet", labels[3:], first=3, **options)
    write_parquet(tmp_path / "in/data/validation-0.parquet", [1, 0], first=50, **options)
    write_parquet(tmp_path / "in/data/test-0.parquet", [-1, -1, -1], first=70, **options)
    found, classes = converted(tmp_path / "in", tmp_path / "out")
    assert found == (parquet_records(labels), parquet_records([1, 0], 50))
    assert classes == tuple(names)


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.uint8()])
def test_parquet_without_a_schema_names_its_classes(tmp_path, kind):
    labels = [1, 0, 1] * 12
    written = [["ash", "elm"][label] for label in labels] if kind == pa.string() else labels
    write_parquet(tmp_path / "in/part-0.parquet", written[:20], kind=kind)
    write_parquet(tmp_path / "in/part-1.parquet", written[20:], first=20, kind=kind)
    found, classes = converted(tmp_path / "in", tmp_path / "out")
    assert found == every_tenth(parquet_records(labels))
    assert classes == (("ash", "elm") if kind == pa.string() else ("0", "1"))


def test_parquet_reads_any_range_and_names_what_is_missing(tmp_path):
    images = [{"bytes": noise(0), "path": None}, {"bytes": None, "path": "far.jpg"}, None] * 3
    table = pa.table({"picture": images, "labels": [0, 1, 0] * 3})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=4)
    write_parquet(tmp_path / "test.parquet", [0])
    with pytest.raises(ValueError, match=r"train\.parquet cannot be .* no column image, label"):
        load_images(tmp_path)
    (tmp_path / "test.parquet").unlink()
    pq.write_table(table, tmp_path / "test.parquet")
    source = load_images(tmp_path).train
    assert list(source.read(6, 7)) == [Record(noise(0), 0, "train.parquet, row 6")]
    for index, message in ((4, "only the path"), (5, "the image is missing")):
        with pytest.raises(ImageError, match=message) as error:
            list(source.read(index, 6))
        assert error.value.name == f"train.parquet, row {index}"


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_the_split_to_test_with_is_chosen(tmp_path, kind):
    def write(name, labels, first):
        if kind == "tar":
            write_tar(tmp_path / f"{name}.tar", samples(labels, first=first))
        else:
            write_parquet(tmp_path / f"{name}.parquet", labels, first=first)

    def test_labels(**options):
        source = load_images(tmp_path, **options).test
        return source.labels.tolist()

    write("train", [0, 1, 2] * 10, 0)
    assert test_labels() == [0, 1, 2]  # held out
    write("val", [1, 2], 50)
    assert test_labels() == [1, 2]
    write("test", [0, 0, 0], 70)
    assert test_labels() == [0, 0, 0]
    assert test_labels(test_split="val") == test_labels(test_split="validation") == [1, 2]
    assert test_labels(test_split="test") == [0, 0, 0]
    write("test", [0, -1, 0], 70)
    assert test_labels() == [1, 2]
    with pytest.raises(ValueError, match=r"1 of 3 images have no label; the first is test\."):
        load_images(tmp_path, test_split="test")
    with pytest.raises(ValueError, match=r"No split 'dev' .* it has test, validation"):
        load_images(tmp_path, test_split="dev")
    write("val", [1, 3], 50)
    with pytest.raises(ValueError, match=r"val\..* has the label 3, and with 3 classes labels go"):
        load_images(tmp_path)
    write("other", [0], 90)
    with pytest.raises(ValueError, match=r"other.* that say no split"):
        load_images(tmp_path)


def test_what_cannot_be_told_apart_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No folder"):
        load_images(tmp_path / "nowhere")
    write_tar(tmp_path / "train.tar", samples([0, 1]))
    with pytest.raises(ValueError, match="2 images to train on and 0 to test with"):
        load_images(tmp_path)
    write_parquet(tmp_path / "train.parquet", [0, 1])
    with pytest.raises(ValueError, match="tars and parquet"):
        load_images(tmp_path)
    (tmp_path / "train.tar").unlink()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="0 columns that could be images"):
        load_images(tmp_path)
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="no column of labels among image"):
        load_images(tmp_path)
    (tmp_path / "dataset.json").touch()
    with pytest.raises(ValueError, match="own format already"):
        load_images(tmp_path)


def test_ranks_are_counted_in_each_class(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, 300).tolist()
    write_parquet(tmp_path / "in/all.parquet", labels)
    found, _ = converted(tmp_path / "in", tmp_path / "out")
    assert found == every_tenth(parquet_records(labels))
