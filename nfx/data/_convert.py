"""Converting labelled images into nfx's own format, in parallel and resumable."""

import contextlib
import json
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from nfx._files import lock, write_whole
from nfx._show import typed_path
from nfx.data._array_record import thread_count
from nfx.data._inputs import Convertible, outline
from nfx.data._manifest import DatasetError, MANIFEST, Manifest, read_manifest, SCRATCH, Shard
from nfx.data._shards import finished_shard, ShardPlan, Tally, unwritable, write_shard
from nfx.data._sources import ImageError, Splits


_PLAN = "plan.json"
_LOCK = "lock"

# Small data sets have this many shards, unless those would be smaller than the limit over this.
_SHARDS = 16

_SECONDS_BETWEEN_REPORTS = 0.1


class Progress(NamedTuple):
    """How far a conversion is.

    Attributes:
        images: Images that are in shards, with those of an interrupted conversion.
        total: Images in all.
        kept: Of `images`, those that an interrupted conversion had written.
        bytes: Size of what this conversion has read.
    """

    images: int
    total: int
    kept: int
    bytes: int


def convert(
    source: Splits[Convertible],
    destination: str | Path,
    *,
    shard_megabytes: float = 256,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Writes images into a directory in nfx's own format, as they are and in their order.

    Killed at any moment, the same call goes on where it stopped, and the result is the same to
    the byte: it depends on the images and on `shard_megabytes` only.

    Args:
        source: The images; see `load_images`.
        destination: The directory, which is made; it must be empty, or hold the same conversion,
            unfinished.
        shard_megabytes: About how large a shard may become.
        workers: Threads, of which each writes a shard; all cores by default.
        progress: Called now and then, from this thread.

    Raises:
        DatasetError: If the destination holds something else, an image cannot be read, or a shard
            cannot be written; the message says which. What is whole is kept.
        ValueError: If `workers` or `shard_megabytes` is out of its range.
    """
    workers = thread_count(workers)
    if not 0 < shard_megabytes < math.inf:
        raise ValueError(f"shard_megabytes={shard_megabytes} must be above 0.")
    root = Path(destination).expanduser().absolute()
    with _locked(root) as scratch:
        plan = _make_plan(source, float(shard_megabytes))
        if (root / MANIFEST).exists():  # killed after writing it
            manifest = _finished(root, scratch, plan)
        else:
            _prepare(root, scratch, plan)
            shards = _write_shards(source, plan, root, scratch, workers, progress)
            manifest = _manifest(source, plan, shards)
            write_whole(root / MANIFEST, manifest.to_json(), scratch=scratch)
        _remove_scratch(scratch)
    return manifest


class _Plan(NamedTuple):
    source: str  # fingerprint
    shard_megabytes: float
    shards: tuple[ShardPlan, ...]

    def to_json(self) -> str:
        return json.dumps(self._asdict(), indent=1) + "\n"


def _make_plan(source: Splits[Convertible], shard_megabytes: float) -> _Plan:
    try:
        outlines = {name: outline(part) for name, part in source.items()}
    except ImageError as error:
        raise DatasetError(f"Cannot convert {error.name!r}: {error}.") from error
    shards = []
    for name, part in source.items():
        if not len(part):
            raise DatasetError(f"There are no images in the split {name!r}.")
        number = _number_of_shards(len(part), outlines[name].bytes, shard_megabytes * 1e6)
        bounds = [index * len(part) // number for index in range(number + 1)]
        shards += [
            ShardPlan(name, f"{name}-{index:05d}-of-{number:05d}.array_record", *bounds[index:][:2])
            for index in range(number)
        ]
    fingerprint = "-".join(found.fingerprint for found in outlines.values())
    return _Plan(fingerprint, shard_megabytes, tuple(shards))


def _number_of_shards(images: int, size: int, limit: float) -> int:
    """Enough shards for several threads if there is much to do, whatever the machine."""
    number = max(math.ceil(size / limit), min(_SHARDS, math.ceil(_SHARDS * size / limit)))
    return max(1, min(images, number))


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[Path]:
    """Makes the directory for scratch files, and keeps other conversions out of it."""
    scratch = root / SCRATCH
    try:
        _refuse_others(root)
        scratch.mkdir(parents=True, exist_ok=True)
        file = (scratch / _LOCK).open("wb")
    except OSError as error:
        raise DatasetError(f"Cannot write into {str(root)!r}: {error.strerror}.") from error
    with _tidied(root, scratch), file:
        try:
            lock(file)
        except BlockingIOError:
            raise DatasetError(
                f"Another conversion into {str(root)!r} is going on. Wait for it, or choose "
                "another destination."
            ) from None
        except OSError as error:
            warnings.warn(
                f"{str(root)!r} cannot be locked ({error.strerror or error}): take care that no "
                "other process converts into it.",
                stacklevel=4,
            )
        try:
            yield scratch
        except BrokenPipeError:  # nobody reads any more how far it is
            raise
        except OSError as error:
            raise unwritable(root, error.strerror or str(error)) from error


@contextlib.contextmanager
def _tidied(root: Path, scratch: Path) -> Iterator[None]:
    """Removes the lock of a conversion that is finished, once it is closed: NFS wants it so."""
    try:
        yield
    finally:
        if (root / MANIFEST).exists() and not (scratch / _PLAN).exists():
            with contextlib.suppress(OSError):  # another process looks into it
                (scratch / _LOCK).unlink()
                scratch.rmdir()


def _refuse_others(root: Path) -> None:
    """Refuses a directory that is neither empty nor of an unfinished conversion."""
    if (root / SCRATCH).is_dir() or not root.exists() or not any(root.iterdir()):
        return
    if (root / MANIFEST).exists():
        raise DatasetError(_holds_finished(root))
    raise DatasetError(
        f"{str(root)!r} is not empty: it holds {min(path.name for path in root.iterdir())!r}. "
        "Choose a destination that is empty or does not exist."
    )


def _prepare(root: Path, scratch: Path, plan: _Plan) -> None:
    """Checks what an interrupted conversion left, and removes what is not whole."""
    if (scratch / _PLAN).exists():
        _check_plan(root, scratch, plan)
    known = {SCRATCH, *(shard.name for shard in plan.shards)}
    foreign = sorted(path.name for path in root.iterdir() if path.name not in known)
    if foreign:
        raise DatasetError(
            f"{str(root)!r} holds {foreign[0]!r}, which is not of this conversion. Move it away."
        )
    for path in scratch.glob("*.partial"):
        path.unlink()
    write_whole(scratch / _PLAN, plan.to_json())


def _finished(root: Path, scratch: Path, plan: _Plan) -> Manifest:
    """What a conversion wrote that was killed while it removed its scratch files."""
    if not (scratch / _PLAN).exists():
        _remove_scratch(scratch)
        raise DatasetError(_holds_finished(root))
    _check_plan(root, scratch, plan)
    return read_manifest(root)


def _remove_scratch(scratch: Path) -> None:
    """Removes all but the lock, and the plan after all that it explains."""
    for path in scratch.iterdir():
        if path.name not in (_PLAN, _LOCK):
            path.unlink()
    (scratch / _PLAN).unlink(missing_ok=True)


def _holds_finished(root: Path) -> str:
    return (
        f"{str(root)!r} holds a finished data set. `nfx convert --verify {typed_path(root)}` "
        "checks it; to convert again, remove it or choose another destination."
    )


def _check_plan(root: Path, scratch: Path, plan: _Plan) -> None:
    """Refuses to go on with what was begun otherwise."""
    try:
        begun = _Plan(**json.loads((scratch / _PLAN).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(
            f"The conversion into {str(root)!r} cannot go on: its {str(scratch / _PLAN)!r} is "
            f"damaged ({error}). Remove the directory, and convert again."
        ) from error
    if begun.to_json() == plan.to_json():
        return
    if begun.shard_megabytes != plan.shard_megabytes:
        reason = f"with shard_megabytes={begun.shard_megabytes}"
    else:
        reason = "from other images, or from these before they changed"
    raise DatasetError(
        f"The conversion into {str(root)!r} was begun {reason}. Go on with that, or remove the "
        "directory."
    )


def _write_shards(
    source: Splits[Convertible],
    plan: _Plan,
    root: Path,
    scratch: Path,
    workers: int,
    progress: Callable[[Progress], None] | None,
) -> dict[str, Shard]:
    """Writes all shards that are missing, several at once."""
    parts = dict(source.items())
    done = {
        shard.name: found
        for shard in plan.shards
        if (found := finished_shard(shard, root, scratch))
    }
    missing = [shard for shard in plan.shards if shard.name not in done]
    tallies = [Tally() for _ in missing]
    kept = sum(shard.records for shard in done.values())

    def report() -> None:
        if progress is not None:
            written = sum(tally.images for tally in tallies)
            size = sum(tally.bytes for tally in tallies)
            total = sum(len(part) for part in parts.values())
            progress(Progress(kept + written, total, kept, size))

    stop = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        futures = [
            pool.submit(write_shard, parts[shard.split], shard, root, scratch, tally, stop)
            for shard, tally in zip(missing, tallies, strict=True)
        ]
        try:
            _wait(futures, report)
        except BaseException:  # an interruption too
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return done | {future.result().name: future.result() for future in futures}


def _wait(futures: Sequence[Future[Shard]], report: Callable[[], None]) -> None:
    """Waits for all, or for the first that fails, whose error it raises."""
    pending: set[Future[Shard]] = set(futures)
    while pending:
        finished, pending = wait(pending, _SECONDS_BETWEEN_REPORTS, FIRST_EXCEPTION)
        for future in finished:
            future.result()
        report()


def _manifest(source: Splits[Convertible], plan: _Plan, shards: Mapping[str, Shard]) -> Manifest:
    splits: dict[str, tuple[Shard, ...]] = {}
    for shard in plan.shards:
        splits[shard.split] = (*splits.get(shard.split, ()), shards[shard.name])
    return Manifest(tuple(source.train.class_names), splits)
