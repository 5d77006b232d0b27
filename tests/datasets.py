"""Labelled images on disk, in every layout that can be read. They are not decoded: noise does."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nfx.data import Record


def noise(number):
    """An image's bytes: different for each number, of different lengths."""
    rng = np.random.default_rng(number)
    return rng.bytes(int(rng.integers(1, 400)))


def write_folder(root, classes, count, *, first=0, prefix=""):
    """Writes `count` images of each class and returns their records, in order."""
    found = []
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            image = noise(first + 1000 * label + number)
            (root / name / f"{number:03d}.jpg").write_bytes(image)
            found.append(Record(image, label, f"{prefix}{name}/{number:03d}.jpg"))
    return found


def write_tar(path, members):
    """Writes a tar of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def samples(labels, *, suffix="cls", first=0, wrap=lambda label: str(label).encode()):
    """The members of a tar of samples with these labels."""
    return [
        member
        for number, label in enumerate(labels, first)
        for member in (
            (f"images/{number:04d}.{suffix}", wrap(label)),
            (f"images/{number:04d}.jpg", noise(number)),
        )
    ]


def write_parquet(path, labels, *, names=None, first=0, kind=None, row_group_size=4):
    """Writes a file as Hugging Face's `datasets` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"bytes": noise(number), "path": f"{number:04d}.jpg"}
        for number, _ in enumerate(labels, first)
    ]
    table = pa.table({"image": images, "label": pa.array(labels, kind)})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        metadata = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, path, row_group_size=row_group_size)


def files_of(root):
    """The contents of all files below a folder."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
