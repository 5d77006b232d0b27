"""`nfx convert`. Without JAX, so that it begins at once."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress as Bar,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from nfx._show import typed_path
from nfx.cli._parse import parse
from nfx.data import (
    convert,
    load_images,
    Manifest,
    Progress,
    read_class_names,
    verify_records,
)


@dataclasses.dataclass(frozen=True)
class ConvertCommand:
    """Write labelled images as a data set that is read fast, in any order, and can be verified.

    Images are copied as they are, in their order. Stopped or killed, the same command goes on
    where it was. `nfx convert --verify DATASET` checks what was converted.

    Attributes:
        source: A folder: of images (train/CLASS/*.jpg and test/CLASS/*.jpg, or CLASS/*.jpg), of
            tars of WebDataset, or of the parquet files of a Hugging Face data set.
        destination: The directory to write; with --verify alone, none.
        workers: Shards to write at the same time; as many as there are cores by default.
        shard_megabytes: About how large a file may become.
        test_split: The split to test with, test or validation, if there are both; by default test,
            unless it has no labels.
        class_names: A text file with the name of a class on each line.
        verify: Compare every byte of the data set with its checksums, of one that is there already
            or after it is written.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES|DATASET")]
    destination: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = ""
    workers: int | None = None
    shard_megabytes: float = 256
    test_split: str | None = None
    class_names: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    verify: bool = False


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and converts.

    Raises:
        ValueError: If there is no destination, or what is not there cannot be converted.
    """
    command = parse(ConvertCommand, "nfx convert", arguments)
    if not command.destination and not command.verify:
        raise ValueError(
            f"Say where to write what is converted from {command.source!r}: nfx convert IMAGES "
            "DIR. Or check a data set: nfx convert --verify DATASET"
        )
    console = Console(stderr=True)
    root = command.destination or command.source
    manifest = _convert(command, console) if command.destination else None
    if command.verify or manifest is None:
        manifest = _verify(root, command.workers, console)
    print(_summary(root, manifest, command.verify))
    if command.destination:
        print(f"\nTrain on it:  nfx train --data {typed_path(root)}")
    return 0


def _convert(command: ConvertCommand, console: Console) -> Manifest:
    with console.status(f"Looking at {escape(command.source)}"):
        images = load_images(
            command.source,
            test_split=command.test_split,
            class_names=read_class_names(command.class_names),
        )
    speed = "{task.fields[images_per_second]:,.0f} images/s  {task.fields[megabytes]:,.1f} MB/s"
    with _bar(console, MofNCompleteColumn(), TextColumn(speed)) as bar:
        total = len(images.train) + len(images.test)
        task = bar.add_task("Converting", total=total, images_per_second=0, megabytes=0)

        def show(progress: Progress) -> None:
            seconds = max(bar.tasks[0].elapsed or 0, 1e-3)
            bar.update(
                task,
                completed=progress.images,
                images_per_second=(progress.images - progress.kept) / seconds,
                megabytes=progress.bytes / seconds / 1e6,
            )

        return convert(
            images,
            command.destination,
            shard_megabytes=command.shard_megabytes,
            workers=command.workers,
            progress=show,
        )


def _verify(root: str, workers: int | None, console: Console) -> Manifest:
    with _bar(console, DownloadColumn(), TransferSpeedColumn()) as bar:
        task = bar.add_task("Verifying", total=None)
        return verify_records(
            root,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


@contextlib.contextmanager
def _bar(console: Console, *columns: ProgressColumn) -> Iterator[Bar]:
    shown = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
    with Bar(*shown, console=console) as bar:
        yield bar


def _summary(root: str, manifest: Manifest, verified: bool) -> str:
    counts = " and ".join(
        f"{sum(shard.records for shard in shards):,} images to {name}{' with' * (name == 'test')}"
        for name, shards in manifest.splits.items()
    )
    size = sum(shard.bytes for shard in manifest.shards)
    return (
        f"{Path(root)}: {counts}, of {len(manifest.class_names):,} classes; "
        f"{size:,} bytes in {len(manifest.shards):,} shards.\n"
        + (
            "All checksums are right."
            if verified
            else "Every shard was read back and compared with its images."
        )
    )
