"""Labelled images in parquet files, as Hugging Face data sets have them."""

import bisect
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nfx.data._listed import (
    class_names_beside,
    find_files,
    Labels,
    labels_of_texts,
    make_splits,
    NO_LABEL,
)
from nfx.data._sources import ImageError, Record, Splits


# Columns of labels, the likeliest first.
_LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "class")


class RowGroup(NamedTuple):
    """What parquet decompresses at once.

    Attributes:
        file: The file.
        number: Of the group in the file.
        first: Number of its first row in the file.
    """

    file: Path
    number: int
    first: int


@dataclasses.dataclass(frozen=True)
class ParquetImages:
    """Images in parquet, which are only read in order: one at random costs a row group.

    Attributes:
        groups: The row groups.
        starts: Number of each group's first row among all, and of all rows.
        rows: Which rows, ascending, shape `(n,)`.
        image_column: Name of the column of images.
        labels: One label an image, shape `(n,)`.
        class_names: One name a class.
    """

    groups: Sequence[RowGroup]
    starts: Sequence[int]
    rows: np.ndarray
    image_column: str
    labels: np.ndarray
    class_names: Sequence[str]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def read(self, start: int, stop: int) -> Iterator[Record]:
        """Yields the images from `start` to before `stop`.

        Raises:
            ImageError: If one cannot be read.
        """
        while start < stop:
            number = bisect.bisect_right(self.starts, self.rows[start]) - 1
            end = min(stop, int(np.searchsorted(self.rows, self.starts[number + 1])))
            inside = self.rows[start:end] - self.starts[number]
            cells = _read_cells(self.groups[number], self.image_column)
            for row, label in zip(inside.tolist(), self.labels[start:end].tolist(), strict=True):
                yield _record(self.groups[number], row, cells[row].as_py(), label)
            start = end


def load_parquet(
    root: str | Path, *, test_split: str | None = None, class_names: Sequence[str] | None = None
) -> Splits[ParquetImages]:
    """Indexes the parquet files of a Hugging Face data set, without reading their images.

    Args:
        root: A folder with *.parquet, in it or in data/: see `make_splits` for what their names
            say of splits. The image is a column of {bytes, path} or of bytes, the label one of
            numbers or of strings.
        test_split: "test" or "validation", if there are both.
        class_names: One name a class; by default those of the file's schema, then those in
            classes.txt or classnames.txt beside the files, then the labels.

    Raises:
        ValueError: If there is no such folder, no such files or columns, or an image has no label.
        ModuleNotFoundError: If pyarrow is not installed.
    """
    import pyarrow.parquet as pq

    root = Path(root).expanduser()
    files = find_files(root, ".parquet")
    if not files:
        raise ValueError(f"No *.parquet in {str(root)!r}.")
    try:
        schema = pq.read_schema(files[0])
    except (OSError, ValueError) as error:
        raise ValueError(f"{files[0].name} cannot be read as parquet: {error}.") from error
    features = _features(schema.metadata or {})
    image, label = _image_column(files[0], schema), _label_column(files[0], schema, features)
    names = class_names
    if names is None:
        names = features.get(label, {}).get("names") or class_names_beside(root)
    return make_splits(
        root,
        files,
        lambda group: _ParquetListing(group, image, label),
        test_split=test_split,
        class_names=names,
    )


class _ParquetListing:
    """What some parquet files hold."""

    def __init__(self, files: Sequence[Path], image_column: str, label_column: str):
        self._image_column = image_column
        self._groups: list[RowGroup] = []
        self._starts = [0]
        columns = []
        for path in files:
            column, sizes = _read_labels(path, label_column, image_column)
            columns.append(column)
            before = self._starts[-1]
            for number, size in enumerate(sizes):
                self._groups.append(RowGroup(path, number, self._starts[-1] - before))
                self._starts.append(self._starts[-1] + size)
        self.labels = _labels(files, columns)

    def describe(self, index: int) -> str:
        """The file and the row in it."""
        number = bisect.bisect_right(self._starts, index) - 1
        return _describe(self._groups[number], index - self._starts[number])

    def select(
        self, indices: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
    ) -> ParquetImages:
        """Some of the images, with their labels."""
        return ParquetImages(
            self._groups, self._starts, indices, self._image_column, labels, class_names
        )


def _read_labels(path: Path, label_column: str, image_column: str) -> tuple[Any, list[int]]:
    """Reads a file's column of labels, and the sizes of its row groups."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            missing = {label_column, image_column} - set(file.schema_arrow.names)
            if missing:
                raise ValueError(f"it has no column {', '.join(sorted(missing))}")
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            column = file.read([label_column], use_threads=False).column(0)
            return column, [group.num_rows for group in groups]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read as parquet: {error}.") from error


def _labels(files: Sequence[Path], columns: Sequence[Any]) -> Labels:
    """Labels of columns of whole numbers or of strings; a null is no label, nor is NaN."""
    import pyarrow as pa

    is_number = lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind)
    is_text = lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if all(is_number(column.type) for column in columns):
        return Labels(np.concatenate([*map(_whole_numbers, files, columns)]))
    for path, column in zip(files, columns, strict=True):
        if not is_text(column.type) and not pa.types.is_integer(column.type):
            raise ValueError(
                f"The labels of {path.name} are of type {column.type}. Expected whole numbers or "
                "strings."
            )
    return labels_of_texts(
        None if label is None else str(label) for column in columns for label in column.to_pylist()
    )


def _whole_numbers(path: Path, column: Any) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute

    compute: Any = pyarrow.compute
    if pa.types.is_floating(column.type):  # as pandas makes integers if some are missing
        nothing = pa.scalar(None, column.type)
        column = compute.if_else(compute.is_nan(column), nothing, column)
    try:
        numbers = column.cast(pa.int32())
    except pa.ArrowInvalid as error:
        raise ValueError(f"A label of {path.name} is no number of a class: {error}.") from error
    return numbers.fill_null(NO_LABEL).to_numpy()


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """What Hugging Face's `datasets` wrote about the columns."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: entry for name, entry in features.items() if isinstance(entry, dict)}


def _image_column(path: Path, schema: Any) -> str:
    import pyarrow as pa

    def holds_images(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    found = [field.name for field in schema if holds_images(field.type)]
    if len(found) == 1 or "image" in found:
        return "image" if "image" in found else found[0]
    raise ValueError(
        f"{path.name} has {len(found)} columns that could be images ({', '.join(schema.names)}). "
        "Expected a column 'image' of {bytes, path} or of bytes."
    )


def _label_column(path: Path, schema: Any, features: Mapping[str, Any]) -> str:
    likely = [name for name in _LABEL_COLUMNS if name in schema.names]
    classes = [name for name, entry in features.items() if entry.get("_type") == "ClassLabel"]
    if likely or len(classes) == 1:
        return (likely or classes)[0]
    raise ValueError(
        f"{path.name} has no column of labels among {', '.join(schema.names)}. Expected "
        f"{' or '.join(_LABEL_COLUMNS)}, or a single one of Hugging Face's type ClassLabel."
    )


def _read_cells(group: RowGroup, column: str) -> Any:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(group.file) as file:
            return file.read_row_group(group.number, [column], use_threads=False).column(0)
    except (OSError, ValueError) as error:
        name = f"{group.file.name}, row group {group.number}"
        raise ImageError(f"the parquet file cannot be read: {error}", name) from error


def _record(group: RowGroup, row: int, cell: Any, label: int) -> Record:
    image, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if image is None:
        raise ImageError(
            "the file has only the path of this image" if path else "the image is missing",
            _describe(group, row),
        )
    return Record(image, label, path or _describe(group, row))


def _describe(group: RowGroup, row: int) -> str:
    return f"{group.file.name}, row {group.first + row}"
