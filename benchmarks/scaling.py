"""Memory and collectives of a training step from 1 to 64 devices.

    pip install 'nfx[all]'
    python benchmarks/scaling.py                         # NFNet-F0, stacked, about ten minutes
    python benchmarks/scaling.py --model nfnet_micro --devices 1 2 4 8

Compiled for virtual CPU devices and never run: bytes, not seconds. Each device has the same number
of images, so that what is flat here scales. The bytes of collectives are those that each device
works on, as `nfx.aot.Collective` counts them, beside what the plan expects.
"""

import argparse
import os
from pathlib import Path


_MOST = 64
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={_MOST} --xla_backend_optimization_level=0 "
    f"{os.environ.get('XLA_FLAGS', '')}"
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from _measure import machine, markdown  # noqa: E402

import nfx  # noqa: E402
from nfx.aot import compile_step  # noqa: E402
from nfx.augment import Augmentation  # noqa: E402
from nfx.data import Batch  # noqa: E402
from nfx.graph import stack_blocks  # noqa: E402
from nfx.sharding import batch_shards, batch_spec, make_mesh  # noqa: E402
from nfx.train import abstract_state, make_train_step, plan_step, Preprocessing  # noqa: E402


STRATEGIES = {
    "data": lambda devices: {"data": devices},
    "fsdp": lambda devices: {"fsdp": devices},
    "data x model=2": lambda devices: {"data": devices // 2, "model": 2},
    "data=2 x fsdp": lambda devices: {"data": 2, "fsdp": devices // 2},
}
OPTIMIZER = nfx.optim.nfnet_sgd(0.1, clipping=0.01)
PREPROCESSING = Preprocessing((0.5,), (0.25,), Augmentation())
MIB = 2**20


def measure(name, shape, size, images_per_device):
    """The bytes of one device: arguments, temporaries, collectives, and the plan's."""
    mesh = make_mesh(shape, jax.devices()[: int(np.prod(list(shape.values())))])
    build = lambda: stack_blocks(nfx.create_model(name, key=jax.random.key(0)))
    state = abstract_state(build, OPTIMIZER, mesh)
    batch = images_per_device * batch_shards(mesh)
    split = jax.sharding.NamedSharding(mesh, batch_spec(mesh))
    examples = Batch(
        jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8, sharding=split),
        jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=split),
    )
    step = make_train_step(OPTIMIZER, PREPROCESSING, mesh)
    report = compile_step(step, state, examples, jax.random.key(0)).report
    plan = plan_step(state, mesh, (size, size, 3), batch)
    return report, plan


def row(strategy, devices, report, plan):
    sizes = {each.kind: each.bytes / MIB for each in report.collectives}
    expected = sum(each.bytes for each in plan.collectives) / MIB
    return [
        strategy,
        devices,
        f"{plan.bytes_per_device / MIB:.1f}",
        f"{report.memory.arguments / MIB:.1f}",
        f"{report.memory.temporaries / MIB:.0f}",
        *(f"{sizes.get(kind, 0):.1f}" for kind in ("all-reduce", "all-gather", "reduce-scatter")),
        f"{expected:.1f}",
    ]


HEADER = [
    "mesh", "devices", "state, planned", "arguments", "temporaries", "all-reduce", "all-gather",
    "reduce-scatter", "collectives, planned",
]  # fmt: skip


def plot(rows, path):
    """State and collectives of a device over the number of devices."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = ("Arguments of each device, MiB", "Collectives of each device, MiB")
    for axes, columns, title in zip(panels, (slice(3, 4), slice(5, 8)), titles, strict=True):
        for strategy in STRATEGIES:
            own = [row for row in rows if row[0] == strategy]
            values = [sum(map(float, row[columns])) for row in own]
            axes.plot([row[1] for row in own], values, marker="o", label=strategy)
        axes.set(title=title, xscale="log", xlabel="devices", ylim=(0, None))
        axes.set_xticks(counts := sorted({row[1] for row in rows}), counts)
        axes.minorticks_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="nfnet_f0")
    parser.add_argument("--size", type=int, default=64, help="side of the images, in pixels")
    parser.add_argument("--images", type=int, default=4, help="of each part of the batch")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--plot", type=Path, help="where to write a figure")
    arguments = parser.parse_args()
    print(machine("jax", "equinox", "nfx") + "\n")
    rows = []
    for strategy, shape_of in STRATEGIES.items():
        for devices in arguments.devices:
            shape = shape_of(devices)
            if min(shape.values()) < 1:
                continue
            found = measure(arguments.model, shape, arguments.size, arguments.images)
            rows.append(row(strategy, devices, *found))
            print("  ".join(map(str, rows[-1])), flush=True)
    print(f"\n{arguments.model} @ {arguments.size}, stacked, {arguments.images} images for each "
          f"part of the batch; MiB of one device\n\n{markdown(HEADER, rows)}")  # fmt: skip
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
