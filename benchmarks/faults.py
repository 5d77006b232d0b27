"""Kills a short run at random moments, resumes it each time, and compares the bits of its end.

    python -m benchmarks.faults --kills 50 --out benchmarks/results/faults.md

A run converts a folder of images and trains on them. Each is hit several times, each time at
another moment, by another signal. What it must come to is what an undisturbed run came to: the
parameters' digest, every record of metrics but for times, and every byte of the converted images.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks._measure import machine, markdown
from nfx.train import without_pace


NFX = (sys.executable, "-c", "from nfx.cli import main; raise SystemExit(main())")
STEPS, EVALUATE_EVERY = 40, 8
OPTIONS = (
    "--model", "nfnet_nano", "--image-size", "16", "--batch-size", "16", "--steps", str(STEPS),
    "--checkpoint-every", "5", "--evaluate-every", str(EVALUATE_EVERY), "--log-every", "3",
    "--warmup-steps", "5", "--clipping", "None", "--stochastic-depth", "0.5", "--mixup", "0.2",
    "--mesh", "data=1", "--cutmix", "--resume-if-begun",
)  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KILLS_A_RUN = 5
CLEAN = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


@dataclasses.dataclass
class Run:
    """A run in a folder of its own.

    Attributes:
        root: The folder.
        images: What it converts.
        environment: Of its processes.
    """

    root: Path
    images: Path
    environment: dict[str, str]

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.root / "run"

    @property
    def result(self) -> Path:
        """What is there once it has ended."""
        return self.directory / "result.json"

    @property
    def log(self) -> Path:
        """What its processes said."""
        return self.root / "log.txt"

    def start(self, *, conversion: bool) -> subprocess.Popen[bytes]:
        """Starts to convert, or to train or go on training."""
        converted = str(self.root / "converted")
        train = ("train", "--data", converted, "--run-dir", str(self.directory), *OPTIONS)
        convert = ("convert", str(self.images), converted, "--shard-megabytes", "0.01")
        with self.log.open("ab") as log:
            log.write(b"\n==== start\n")
            log.flush()
            return subprocess.Popen(
                [*NFX, *(convert if conversion else train)],
                env=self.environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def records(self) -> list[dict]:
        """Metrics without times, but for a last line that was cut off."""
        path = self.directory / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        return [without_pace(record) for record in whole]

    def finish(self) -> None:
        """Converts and trains to the end."""
        for conversion in (True, False):
            if not (self.root / "converted" / "dataset.json").exists() or not conversion:
                code = self.start(conversion=conversion).wait()
                if code:
                    raise RuntimeError(f"Ended with {code}:\n{self.log.read_text()}")

    def outcome(self) -> dict:
        """All that has to be the same."""
        result = json.loads(self.result.read_text())
        # Not what a conversion that was killed at its very end had yet to clear away.
        files = [path for path in sorted((self.root / "converted").iterdir()) if path.is_file()]
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        result.pop("wall_seconds")
        return {"result": result, "records": self.records(), "images": digests}


def _said(run: Run, words: str) -> bool:
    return words in run.log.read_text().rpartition("==== start")[2]


def _evaluates(run: Run) -> bool:
    last = (run.records() or [{}])[-1]
    return "loss" in last and last["step"] % EVALUATE_EVERY == 0


def _saves(run: Run) -> bool:
    return any(path.suffix for path in run.directory.glob("checkpoints/*"))


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill.

    Attributes:
        begins: Whether it has come.
        lasts: Up to how many seconds later to kill.
    """

    begins: Callable[[Run, int], bool]
    lasts: float


def _past(run: Run, step: int) -> bool:
    return bool(run.records()) and run.records()[-1]["step"] >= step


MOMENTS = {
    "conversion": Moment(lambda run, step: (run.root / "converted").exists(), 0.3),
    "start": Moment(lambda run, step: _said(run, "\n"), 3.0),
    "compilation": Moment(lambda run, step: _said(run, "Compiling the training step"), 1.0),
    "step": Moment(_past, 0.05),
    "evaluation": Moment(lambda run, step: _past(run, step) and _evaluates(run), 0.1),
    "save": Moment(lambda run, step: _past(run, step) and _saves(run), 0.03),
}

TRAINING = ("step", "evaluation", "save")


def kill(run: Run, moment: str, number: signal.Signals, rng: random.Random) -> int | None:
    """Starts or resumes a run and kills it; returns its code, or None if it had ended before."""
    step = rng.randrange(min(_step(run), STEPS - 1), STEPS) + 1
    process = run.start(conversion=moment == "conversion")
    while not MOMENTS[moment].begins(run, step):
        if process.poll() is not None:
            if process.returncode:
                raise RuntimeError(f"Ended with {process.returncode}:\n{run.log.read_text()}")
            return None
        time.sleep(0.002)
    time.sleep(rng.uniform(0, MOMENTS[moment].lasts))
    process.send_signal(number)
    return process.wait(timeout=300) or None


def drill(
    kills: int, root: Path, *, seed: int = 0, say: Callable[[str], object] = print
) -> dict[str, Counter]:
    """Kills runs until so many kills have hit.

    Args:
        kills: How many.
        root: An empty folder to work in.
        seed: Of the moments.
        say: Is told of each kill.

    Returns:
        Counts by moment: of each signal, of codes that were "unclean", and of runs that were
        "lost" (did not end, or not with the same bits) or "corrupt" (had a checkpoint that could
        not be loaded), by the moment of the run's last kill.
    """
    rng = random.Random(seed)
    make_images(root / "images")
    undisturbed = Run(root / "undisturbed", root / "images", environment(root))
    undisturbed.root.mkdir()
    undisturbed.finish()
    expected = undisturbed.outcome()
    counts: dict[str, Counter] = {moment: Counter() for moment in MOMENTS}
    order = _endless(list(MOMENTS), rng)
    done = runs = 0
    while done < kills:
        run = Run(root / f"run-{runs}", root / "images", environment(root))
        run.root.mkdir()
        runs += 1
        last, hits = "", 0
        for moment in sorted((next(order) for _ in range(KILLS_A_RUN)), key=_conversion_first):
            if run.result.exists():
                break  # there is nothing left to disturb
            if moment != "conversion" and not (run.root / "converted" / "dataset.json").exists():
                run.start(conversion=True).wait()
            if moment in TRAINING and _step(run) == STEPS:
                moment = "start"  # no step is left
            number = SIGNALS[done % len(SIGNALS)]
            code = kill(run, moment, number, rng) if done < kills else None
            if code is None:
                continue  # it was too quick
            if not _is_clean(code, number, moment, run):
                counts[moment]["unclean"] += 1
            counts[moment][number.name] += 1
            done, hits, last = done + 1, hits + 1, moment
            say(f"{done}: {number.name} at {moment}: {code}, step {_step(run)}")
        if not hits:
            continue
        same = _ends_as(run, expected, say)
        counts[last]["lost"] += not same
        counts[last]["corrupt"] += (run.directory / "checkpoints.damaged").exists()
        if same:
            shutil.rmtree(run.root)
    return counts


def _ends_as(run: Run, expected: dict, say: Callable[[str], object]) -> bool:
    """Whether a run, let alone from here, ends with the same bits."""
    try:
        run.finish()
        different = list(_differences(run.outcome(), expected))
    except (RuntimeError, OSError) as error:
        different = [str(error)]
    say(f"{run.root.name}: {'OTHER BITS' if different else 'the same bits'}")
    for difference in different:
        say(f"  {difference}")
    return not different


def _differences(found: dict, expected: dict) -> Iterator[str]:
    """Tells the first thing of each kind that differs."""
    for kind, wanted in expected.items():
        pairs = zip_longest(_entries(found[kind]), _entries(wanted))
        yield from islice((f"{kind}: {a} and not {b}" for a, b in pairs if a != b), 1)


def _entries(whole: dict | list) -> list:
    return list(whole.items()) if isinstance(whole, dict) else whole


def _is_clean(code: int, number: signal.Signals, moment: str, run: Run) -> bool:
    """Whether a process ended as it should: by default of the system where it does not train."""
    trains = moment in TRAINING and not run.result.exists()
    return code == CLEAN[number] or (code == -number and not trains)


def _conversion_first(moment: str) -> bool:
    return moment != "conversion"


def _endless(moments: list[str], rng: random.Random):
    while True:
        yield from rng.sample(moments, len(moments))


def _step(run: Run) -> int:
    return run.records()[-1]["step"] if run.records() else 0


def make_images(root: Path) -> None:
    """Writes a folder of small pictures of two classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 120), ("test", 30)):
        for label in ("noise", "dark"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255 if label == "noise" else 99, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def environment(root: Path) -> dict[str, str]:
    """One device, and compiled programs that are shared by all runs."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("NFX_DRILL_XLA_FLAGS", ""),
        "NFX_COMPILATION_CACHE": "on",
        "NFX_CACHE_DIR": str(root / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def table(counts: dict[str, Counter]) -> str:
    """The counts in Markdown."""
    columns = [*(number.name for number in SIGNALS), "unclean", "lost", "corrupt"]
    rows = [*counts.items(), ("all", sum(counts.values(), Counter()))]
    header = ["moment", *columns]
    return markdown(
        header, [[moment, *(count[name] for name in columns)] for moment, count in rows]
    )


def main() -> None:
    """Parses the arguments, drills and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="a file to write the table to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        counts = drill(options.kills, Path(root), seed=options.seed)
    command = f"python -m benchmarks.faults --kills {options.kills} --seed {options.seed}"
    versions = machine("nfx", "jax", "orbax-checkpoint")
    result = f"{versions}; {time.strftime('%Y-%m-%d')}\n\n`{command}`\n\n{table(counts)}"
    print(result)
    if options.out:
        Path(options.out).write_text(result + "\n")


if __name__ == "__main__":
    main()
