"""What exporting costs and saves: sizes, time to the first logits, and speed when running.

    python benchmarks/export.py                                      # NFNet-F0: some minutes
    python benchmarks/export.py --model nfnet_nano --image-size 32

Random weights. "To the first logits" is what a fresh process needs, imports included: to load the
artifact, compile it and run it on one image, against building the same model, standardizing its
weights and compiling that. The steady state compares the two in one process, called in turn.
Weights are baked into a program of the small model only: XLA takes long over large constants.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import jax
import numpy as np

import nfx
from nfx.aot import export_classifier, ExportOptions, pixels_to_logits
from nfx.graph import fold_weight_standardization
from nfx.serving import ImageFormat, load_artifact, save_artifact


BAKED = "nfnet_nano"

# Each in a process of its own: the artifact, and the model.
FROM_ARTEFACT = """
import sys
import numpy as np
from nfx.serving import load_artifact

artifact = load_artifact(sys.argv[1])
artifact.logits(np.zeros((1, *artifact.manifest.images.shape), np.uint8)).block_until_ready()
"""
FROM_MODEL = """
import sys
sys.path.insert(0, sys.argv[3])
import jax
import numpy as np
import export

model = jax.jit(export.folded(export.build(sys.argv[1])))()
images = np.zeros((1, int(sys.argv[2]), int(sys.argv[2]), 3), np.uint8)
export.jitted(int(sys.argv[2]))(model, images).block_until_ready()
"""


def image_format(size):
    return ImageFormat(size=size, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def build(name):
    return lambda: nfx.create_model(name, key=jax.random.key(0))


def folded(build_model):
    return lambda: fold_weight_standardization(build_model())


def jitted(size):
    images = image_format(size)
    return jax.jit(lambda model, pixels: pixels_to_logits(model, None, pixels, images))


def exported(name, model, size, path, weights):
    """Writes an artifact; returns the seconds it took."""
    began = time.perf_counter()
    artifact = export_classifier(
        model,
        name=name,
        images=image_format(size),
        class_names=[str(label) for label in range(1000)],
        options=ExportOptions(weights=weights),
    )
    save_artifact(artifact, path)
    return time.perf_counter() - began


def size_in_megabytes(path):
    return sum(file.stat().st_size for file in path.iterdir()) / 1e6


def seconds_of_process(code, *arguments):
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)
    return time.perf_counter() - began


def steady_seconds(first, second, images, rounds):
    """Medians of two functions of the same images, called in turn, and of their ratios."""
    for function in (first, second):
        jax.block_until_ready(function(images))
    times = np.array([[_seconds(f, images) for f in (first, second)] for _ in range(rounds)])
    return *np.median(times, axis=0), median(times[:, 0] / times[:, 1])


def _seconds(function, images):
    began = time.perf_counter()
    jax.block_until_ready(function(images))
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nfnet_f0")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    name, size = arguments.model, arguments.image_size
    print(
        f"{name} at {size} px on {len(os.sched_getaffinity(0))} cores ({platform.machine()}, "
        f"{jax.devices()[0].platform}); Python {platform.python_version()}, jax {version('jax')}, "
        f"jaxlib {version('jaxlib')}, nfx {version('nfx')}; XLA_FLAGS "
        f"{os.environ.get('XLA_FLAGS', 'not set')}\n"
    )
    print("| what | measured |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.nfx"
        report_sizes(name, size, path)
        report_first_logits(name, size, path)
        report_steady_state(name, size, path, arguments.batches, arguments.rounds)


def report_sizes(name, size, path):
    seconds = exported(name, jax.jit(build(name))(), size, path, "separate")
    program = (path / "program.bin").stat().st_size / 1e6
    platforms = ", ".join(json.loads((path / "manifest.json").read_text())["platforms"])
    print(f"| exported for {platforms} | {seconds:.1f} s |")
    print(
        f"| artifact, of which the program | {size_in_megabytes(path):.1f} MB, {program:.2f} MB |"
    )
    small, shown = jax.jit(build(BAKED))(), []
    for weights in ("separate", "baked"):
        small_path = path.with_name(f"{weights}.nfx")
        seconds = exported(BAKED, small, 32, small_path, weights)
        began = time.perf_counter()
        load_artifact(small_path).logits(np.zeros((1, 32, 32, 3), np.uint8)).block_until_ready()
        first = time.perf_counter() - began
        shown.append(f"{size_in_megabytes(small_path):.2f} MB, {seconds:.1f} s, {first:.1f} s")
    print(f"| {BAKED}, separate: size, export, load to first logits | {shown[0]} |")
    print(f"| {BAKED}, baked | {shown[1]} |")


def report_first_logits(name, size, path):
    from_artifact = seconds_of_process(FROM_ARTEFACT, path)
    from_model = seconds_of_process(FROM_MODEL, name, size, Path(__file__).parent)
    print(
        f"| process to first logits: artifact, model, ratio | {from_artifact:.1f} s, "
        f"{from_model:.1f} s, {from_artifact / from_model:.2f} |"
    )


def report_steady_state(name, size, path, batches, rounds):
    artifact, run = load_artifact(path), jitted(size)
    model = jax.block_until_ready(jax.jit(folded(build(name)))())
    for batch in batches:
        images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        ours, theirs, ratio = steady_seconds(
            artifact.logits, lambda x: run(model, x), images, rounds
        )
        print(
            f"| running, batch {batch}: artifact, jitted folded model, ratio | "
            f"{ours * 1e3:.1f} ms, {theirs * 1e3:.1f} ms, {ratio:.2f} |"
        )


if __name__ == "__main__":
    main()
