"""What the host can feed, beside timm's loader on PyTorch.

    pip install timm torch torchvision opencv-python-headless
    python benchmarks/input.py                        # generated photos
    python benchmarks/input.py --data ~/imagenet      # or a folder of one's own
    python benchmarks/input.py --parts scale          # memory at the size of ImageNet

- throughput: images a second through decoding, a random crop of 8 to 100 % of the area and a
  bicubic resize to 224 pixels, in batches of bytes, as both hand them to the device (which
  mirrors and normalizes). The loaders take turns; what one had loaded ahead is thrown away before
  its time is taken, and it has filled up again before the next one begins.
- start: each in a process of its own: seconds from asking for batches until the first is there,
  those of importing the library before, and the most memory after ten batches.
- scale: memory and time of indexing, and of loading, at ImageNet's 1,281,167 records.
"""

import argparse
import importlib
import itertools
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _measure import machine, markdown
from _photos import write_photos


SIZE, BATCH, IMAGENET = 224, 64, 1_281_167


def nfx_batches(data, decoder: Any = "pillow", threads=0, workers=0):
    """An endless iterator of uint8 batches."""
    from nfx.data import Images, Loading, open_sources, RandomCrop, training_batches

    images = Images(open_sources(data).train, RandomCrop(SIZE, decoder=decoder))
    loading = Loading(threads=threads, workers=workers)
    return training_batches(images, BATCH, seed=0, loading=loading)


def timm_batches(data, workers=0):
    """The same of timm: what its loader gives its prefetcher, without the way to the device."""
    timm = importlib.import_module("timm.data")
    torch = importlib.import_module("torch")
    dataset = timm.create_dataset("", root=data, split="train", is_training=True)
    loader = timm.create_loader(
        dataset, (3, SIZE, SIZE), BATCH, is_training=True, scale=(0.08, 1.0), hflip=0.0,
        color_jitter=0.0, interpolation="bicubic", num_workers=workers, persistent_workers=False,
        device=torch.device("cpu"),
    ).loader  # fmt: skip
    return itertools.chain.from_iterable(itertools.repeat(loader))


LOADERS = {
    "timm, no worker": lambda data: timm_batches(data),
    "timm, 2 workers": lambda data: timm_batches(data, workers=2),
    "nfx, Pillow, no thread": lambda data: nfx_batches(data),
    "nfx, Pillow, 2 threads": lambda data: nfx_batches(data, threads=2),
    "nfx, Pillow, 2 workers": lambda data: nfx_batches(data, threads=0, workers=2),
    "nfx, OpenCV, no thread": lambda data: nfx_batches(data, "opencv"),
    "nfx, OpenCV, 2 threads": lambda data: nfx_batches(data, "opencv", threads=2),
}


def throughput(data, rounds, batches, skipped=6):
    """Medians of images a second, by loader."""
    running = {name: make(data) for name, make in LOADERS.items()}
    rates = {name: [] for name in running}
    for _ in range(rounds):
        for name, iterator in running.items():
            for _ in range(skipped):
                next(iterator)
            began = time.perf_counter()
            for _ in range(batches):
                next(iterator)
            rates[name].append(BATCH * batches / (time.perf_counter() - began))
            time.sleep(2)
    return {name: statistics.median(each) for name, each in rates.items()}


def report_throughput(data, rounds, batches):
    rates = throughput(data, rounds, batches)
    alone, workers = rates["timm, no worker"], rates["timm, 2 workers"]
    rows = [
        [name, f"{rate:.0f}", f"{rate / alone:.2f}", f"{rate / workers:.2f}"]
        for name, rate in rates.items()
    ]
    print(f"### Throughput: {SIZE} px, batches of {BATCH}\n")
    header = ["loader", "images/s", "times timm, no worker", "times timm, 2 workers"]
    print(markdown(header, rows), flush=True)


def start(data, name):
    """Measures one loader in this process, which has done nothing else; prints JSON."""
    began = time.perf_counter()
    if name.startswith("timm"):
        importlib.import_module("timm.data")
    else:
        importlib.import_module("grain")
        importlib.import_module("nfx.data")
    imported = time.perf_counter()
    iterator = LOADERS[name](data)
    next(iterator)
    first = time.perf_counter()
    for _ in range(9):
        next(iterator)
    megabytes = sum(
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(json.dumps([imported - began, first - imported, megabytes]), flush=True)


def report_start(data, rounds):
    found = {name: [] for name in LOADERS}
    for _ in range(rounds):
        for name, runs in found.items():
            runs.append(json.loads(_fresh("--data", str(data), "--start", name)))
    rows = [
        [name, *(f"{statistics.median(values):.2f}" for values in columns[:2]),
         f"{statistics.median(columns[2]):.0f}"]
        for name, runs in found.items()
        for columns in [list(zip(*runs, strict=True))]
    ]  # fmt: skip
    print("\n### Start, and memory of the process\n")
    header = ["loader", "import, s", "first batch, s", "MB after ten batches"]
    print(markdown(header, rows), flush=True)


def scale(name):
    """Measures one thing of ImageNet's size in this process; prints JSON."""
    before = _resident()
    began = time.perf_counter()
    kept = SCALES[name]()
    seconds = time.perf_counter() - began
    print(json.dumps([seconds, _resident() - before, bool(kept)]), flush=True)


def _index_folder():
    import numpy as np

    from nfx.data import FolderSource, Strings

    names = Strings(
        f"train/n{c:08}/n{c:08}_{i}.JPEG" for c in range(1000) for i in range(IMAGENET // 1000 + 1)
    )
    labels = np.repeat(np.arange(1000, dtype=np.int32), IMAGENET // 1000 + 1)
    return FolderSource(Path(), names, labels, [str(c) for c in range(1000)])


def _load_noise(count):
    from nfx.data import AsStored, Images, Loading, NoiseSource, training_batches

    shape = (64, 64, 3)
    images = Images(NoiseSource(count, shape), AsStored(shape))
    batches = training_batches(images, 256, seed=0, loading=Loading(threads=2))
    for _ in range(50):
        next(batches)
    return batches


SCALES = {
    "index of a folder, 1,281,167 files": _index_folder,
    "50 batches of 256 at 64 px (3.1 MB) out of 1,000 records": lambda: _load_noise(1_000),
    "50 batches of 256 at 64 px (3.1 MB) out of 1,281,167": lambda: _load_noise(IMAGENET),
}


def report_scale():
    print("\n### Scale\n")
    rows = []
    for name in SCALES:
        seconds, megabytes, _ = json.loads(_fresh("--scale", name))
        rows.append([name, f"{seconds:.1f}", f"{megabytes:.0f}"])
    print(markdown(["what", "s", "MB more, imports included"], rows), flush=True)


def _resident():
    """Memory of this process, in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _fresh(*arguments):
    """The line of JSON that this script prints in a process of its own, which is ended then."""
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        found = next(line for line in process.stdout if line.startswith("["))
        os.killpg(process.pid, signal.SIGKILL)  # and its workers, which would wait for it
    return found


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="", help="a folder with train/CLASS/*.jpg")
    parser.add_argument("--photos", type=int, default=2500, help="how many to generate otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20, help="of each loader in a round")
    parser.add_argument("--parts", nargs="+", default=["throughput", "start", "scale"])
    parser.add_argument("--start", help=argparse.SUPPRESS)
    parser.add_argument("--scale", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start or options.scale:
        start(options.data, options.start) if options.start else scale(options.scale)
        return
    print(machine("nfx", "grain", "pillow", "opencv-python-headless", "timm", "torch") + "\n")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(options.data).expanduser() if options.data else Path(folder)
        if not options.data and {"throughput", "start"} & set(options.parts):
            write_photos(data, options.photos)
        if "throughput" in options.parts:
            report_throughput(data, options.rounds, options.batches)
        if "start" in options.parts:
            report_start(data, options.rounds)
        if "scale" in options.parts:
            report_scale()


if __name__ == "__main__":  # workers import this file again
    main()
