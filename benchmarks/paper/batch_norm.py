"""What batch norm costs: time, memory, program, communication, and examples that see each other.

    python -m benchmarks.paper.batch_norm            # a quarter of an hour on two cores
    python -m benchmarks.paper.batch_norm --quick

A training step of a batch-normalized network and of a normalizer-free one of its shape, with the
same optimizer: timed in turns on one device, and compiled for eight. Then what a trained network
answers when it normalizes by running averages in place of the batch, and what becomes of an answer
when other images are in the batch.
"""

import os
import time


os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from benchmarks._measure import interleave
from benchmarks.paper._claims import load_data, paint, parse_options, write_page
from benchmarks.paper._fashion import MEAN, STD
from benchmarks.paper._training import (
    BATCH_NORM,
    build,
    make_trainer,
    NORMALIZER_FREE,
    Setting,
)
from nfx import create_model
from nfx.aot import compile_step
from nfx.augment import Augmentation, normalize
from nfx.data import Batch
from nfx.models import apply_batch, initial_statistics
from nfx.optim import nfnet_sgd
from nfx.sharding import batch_spec, make_mesh
from nfx.testing import check_example_independence, LawViolation
from nfx.train import abstract_state, create_state, make_train_step, Preprocessing


# Networks of one shape, images of a step, their side and channels.
PAIRS = {
    "small": ({"BN": BATCH_NORM[:2], "NF": NORMALIZER_FREE[:2]}, 256, 28, 1),
    "ResNet50": ({"BN": ("resnet50", {}), "NF": ("nf_resnet50", {})}, 16, 96, 3),
}


def main():
    options = parse_options(__doc__, seeds=1)
    began = time.monotonic()
    pairs = {"small": PAIRS["small"]} if options.quick else PAIRS
    costs = {name: _costs(*pair, rounds=1 if options.quick else 8) for name, pair in pairs.items()}
    answers = _answers(options)
    write_page(
        options,
        "batch_norm",
        "What batch norm costs",
        tables={
            "A training step on one device, of 256 images of 28 pixels (small) or 16 of 96; times "
            "are medians of 8 rounds in turn. Collectives: what one device takes part in when 8 "
            "split the batch.": (
                ["", *(f"{name} {kind}" for name, pair in costs.items() for kind in pair)],
                _rows(costs),
            ),
            "A trained network's answers to 1,000 test images, by the averages that it keeps for "
            "inference and by the images that come with them.": (
                ["images in a batch", "answers that differ", "mean change of a probability"],
                answers,
            ),
            "The law that no example sees another.": (["network", ""], _independence()),
        },
        figures={"costs": paint((8, 3.2), lambda figure: _draw(figure, costs))},
        seconds=time.monotonic() - began,
    )


def _costs(networks, images, size, channels, *, rounds):
    """Seconds of the step on one device, and what is compiled for one and for eight."""
    optimizer = nfnet_sgd(0.1, clipping=None, ema=0.0)
    mean, std = (MEAN, STD) if channels == 1 else ((0.5,), (0.25,))
    preprocessing = Preprocessing(mean, std, Augmentation())
    reports, calls = {}, {}
    for kind, (name, fields) in networks.items():
        build = lambda name=name, fields=fields: create_model(
            name, in_channels=channels, num_classes=10, key=jax.random.key(0), **fields
        )
        reports[kind] = []
        for devices in (1, 8):
            mesh = make_mesh({"data": devices}, jax.devices()[:devices])
            split = NamedSharding(mesh, batch_spec(mesh))
            batch = Batch(
                jax.ShapeDtypeStruct((images, size, size, channels), jnp.uint8, sharding=split),
                jax.ShapeDtypeStruct((images,), jnp.int32, sharding=split),
            )
            step = make_train_step(optimizer, preprocessing, mesh)
            state = abstract_state(build, optimizer, mesh)
            program = compile_step(
                step, state, batch, jax.random.key(0), model=jax.eval_shape(build)
            )
            reports[kind].append(program.report)
            if devices == 1:
                state = create_state(build, optimizer, mesh)
                calls[kind] = _steps(program.compiled, state, batch)
    return {kind: (*reports[kind], timing) for kind, timing in interleave(calls, rounds).items()}


def _steps(compiled, state, batch, count=3):
    """A call that takes some steps on images of noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, batch.images.shape, dtype=np.uint8)
    labels = np.arange(len(noise), dtype=np.int32) % 10
    placed = jax.device_put(Batch(noise, labels), batch.images.sharding)
    key = jax.random.key(0)

    def call():
        nonlocal state
        for _ in range(count):
            state, _ = compiled(state, placed, key)
        jax.block_until_ready(state)

    return call


def _rows(costs):
    columns = [column for pair in costs.values() for column in pair.values()]
    moved = lambda report: sum(each.bytes for each in report.collectives)
    times = lambda report: sum(each.number for each in report.collectives)
    measures = {
        "thousands of parameters": lambda one, eight, timing: f"{one.parameters / 1e3:,.0f}",
        "wall, ms a step": lambda one, eight, timing: f"{1e3 * timing.wall / 3:.0f}",
        "CPU, ms a step": lambda one, eight, timing: f"{1e3 * timing.cpu / 3:.0f}",
        "temporaries, MB": lambda one, eight, timing: f"{one.memory.temporaries / 1e6:.0f}",
        "instructions": lambda one, eight, timing: f"{one.hlo_instructions:,}",
        "compile, CPU s": lambda one, eight, timing: f"{one.compile_seconds.cpu:.0f}",
        "collectives of 8 devices": lambda one, eight, timing: times(eight),
        "MB in them": lambda one, eight, timing: f"{moved(eight) / 1e6:.2f}",
    }
    return [[name, *(read(*column) for column in columns)] for name, read in measures.items()]


def _answers(options):
    """How the answers of trained networks depend on what normalizes them."""
    data = load_data(options)
    images = normalize(jnp.asarray(data.test.images[:1000]), MEAN, STD)
    rows = []
    for network, clipping in ((BATCH_NORM, None), (NORMALIZER_FREE, 0.02)):
        setting = Setting(network=network, clipping=clipping, epochs=2)
        _, state = make_trainer(setting, data)(0)
        for size in (8, 64):
            differs, change = _compare(state, images, size)
            label = f"{network.name}, {size}"
            rows.append([label, f"{100 * differs:.1f} %", f"{change:.4f}"])
    return rows


def _compare(state, images, size):
    """Answers in inference, and in batches of some size normalized as in training."""
    apply = jax.jit(apply_batch, static_argnames="batch_axes")
    kept, seen = [], []
    for start in range(0, len(images) // size * size, size):
        batch = images[start : start + size]
        for answers, axes in ((kept, None), (seen, ())):
            logits = apply(state.model, state.statistics, batch, batch_axes=axes)[0]
            answers.append(jax.nn.softmax(logits))
    kept, seen = map(np.concatenate, (kept, seen))
    return np.mean(kept.argmax(-1) != seen.argmax(-1)), np.abs(kept - seen).mean()


def _independence():
    rows = []
    for network in (BATCH_NORM, NORMALIZER_FREE):
        model = build(network, jax.random.key(0))
        statistics = initial_statistics(model)
        answer = lambda images, model=model, statistics=statistics: apply_batch(
            model, statistics, images, batch_axes=()
        )[0]
        try:
            check_example_independence(answer, image_shape=(28, 28, 1))
            rows.append([network.name, "holds"])
        except LawViolation as violation:
            rows.append([network.name, "broken: " + str(violation).splitlines()[-1].strip()])
    return rows


def _draw(figure, costs):
    panels = {
        "wall time of a step": lambda one, eight, timing: timing.wall,
        "memory of temporaries": lambda one, eight, timing: one.memory.temporaries,
        "instructions": lambda one, eight, timing: one.hlo_instructions,
        "collectives": lambda one, eight, timing: sum(each.number for each in eight.collectives),
    }
    for axes, (title, read) in zip(figure.subplots(1, 4), panels.items(), strict=True):
        ratios = [read(*pair["BN"]) / read(*pair["NF"]) for pair in costs.values()]
        axes.bar(list(costs), ratios, color="#0072B2", width=0.5)
        axes.axhline(1, color="#374151", lw=1)
        axes.set_title(f"{title}, BN / NF", fontsize=8)


if __name__ == "__main__":
    main()
