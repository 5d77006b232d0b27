"""A process of the tests of several: `nfx`, or what several processes have to get right together.

JAX keeps what it compiles for CPUs under a key that is another in each process, and lets process 0
write alone: the others would compile again at every start. Here they take what process 0 wrote.
"""

import sys
from pathlib import Path

from jax._src import cache_key


cache_key._hash_accelerator_config = cache_key._hash_devices

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P  # noqa: E402

from nfx.augment import Augmentation  # noqa: E402
from nfx.checkpoint import CheckpointStore, tree_digest  # noqa: E402
from nfx.cli import main  # noqa: E402
from nfx.data import (  # noqa: E402
    evaluation_batches,
    Images,
    NoiseSource,
    RandomCrop,
    training_batches,
)
from nfx.sharding import (  # noqa: E402
    batch_spec,
    load_parts,
    local_example_indices,
    make_mesh,
    place_batch,
)
from nfx.train import (  # noqa: E402
    augment_examples,
    compile_for_all,
    initialize_processes,
    Preprocessing,
    ProcessOptions,
    wait_for_all,
)


# Cropped at random by the host, and augmented by the devices.
IMAGES = Images(NoiseSource(28, (20, 30, 3), num_classes=3), RandomCrop(16))
BATCH = 8
PREPROCESSING = Preprocessing(
    (0.5,), (0.25,), Augmentation(mixup_alpha=0.2, cutmix=True, randaugment_layers=2)
)


def whole(array):
    """All of a global array, on this process."""
    return np.asarray(
        jax.jit(lambda x: x, out_shardings=NamedSharding(array.sharding.mesh, P()))(array)
    )


def check_batches(mesh):
    """Global batches hold what a single process would load, in the same order."""
    loaders = [
        lambda part, parts: training_batches(IMAGES, BATCH, seed=3, part=part, parts=parts),
        lambda part, parts: evaluation_batches(IMAGES, BATCH, part=part, parts=parts),
    ]
    for load in loaders:
        pairs = list(zip(load_parts(load, mesh), load(0, 1), range(5), strict=False))
        assert len(pairs) >= 4
        for mine, expected, _ in pairs:
            placed = place_batch(mine, mesh)
            np.testing.assert_array_equal(whole(placed.images), expected.images)
            np.testing.assert_array_equal(whole(placed.labels), expected.labels)


def augmented(mesh):
    """The function that augments a global batch as the training step does."""

    def local(batch):
        indices = local_example_indices(mesh, batch.labels.shape[0])
        key = jax.random.key(3)
        return augment_examples(PREPROCESSING, *batch, key, 5, indices, num_classes=3)[:2]

    spec = batch_spec(mesh)
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(spec,), out_specs=spec))


def check_augmentation(mesh):
    """Every pixel is what a single device makes of it."""
    load = lambda part, parts: training_batches(IMAGES, BATCH, seed=3, part=part, parts=parts)
    mine, expected = (next(batches) for batches in (load_parts(load, mesh), load(0, 1)))
    alone = make_mesh({"data": 1}, jax.local_devices()[:1])
    for found, wanted in zip(
        augmented(mesh)(place_batch(mine, mesh)), augmented(alone)(expected), strict=True
    ):
        np.testing.assert_array_equal(whole(found), np.asarray(wanted))


def check_checkpoint(mesh, directory):
    """States split over processes are saved, verified and restored; digests know no mesh."""
    values = {
        "weight": np.arange(64, dtype=np.float32).reshape(16, 4),
        "bias": np.ones(3, np.float32),
    }
    place = lambda spec, x: jax.make_array_from_callback(
        x.shape, NamedSharding(mesh, spec), lambda index: x[index]
    )
    specs = {"weight": P(tuple(mesh.axis_names)), "bias": P()}
    state = {name: place(specs[name], x) for name, x in values.items()}
    assert not state["weight"].is_fully_addressable
    assert tree_digest(state) == tree_digest(values)
    with CheckpointStore(directory) as store:
        store.save(1, state)
        store.wait()
        for spec in (P(tuple(mesh.axis_names)), P(), P(None, tuple(mesh.axis_names))):
            like = {name: place(spec if x.ndim == 2 else P(), 0 * x) for name, x in values.items()}
            restored = store.restore(like)
            assert restored["weight"].sharding == like["weight"].sharding
            assert tree_digest(restored) == tree_digest(values)


def check_together(options, directory):
    """What two processes of two devices each have to get right together."""
    initialize_processes(options)
    devices = np.asarray(jax.devices())
    shapes = {
        ("data",): (4,),
        ("data", "fsdp"): (2, 2),
        ("data", "model"): (1, 4),
        ("model",): (4,),
    }
    for order in ([0, 1, 2, 3], [0, 2, 1, 3], [0, 2, 3, 1]):
        for axes, shape in shapes.items():
            types = (AxisType.Auto,) * len(axes)
            check_batches(Mesh(devices[order].reshape(shape), axes, axis_types=types))
        check_augmentation(Mesh(devices[order], ("data",), axis_types=(AxisType.Auto,)))
    wait_for_all("before the checkpoint")
    check_checkpoint(Mesh(devices, ("data",), axis_types=(AxisType.Auto,)), directory)
    wait_for_all("checked")


def reduce_for_ever(options, directory):
    """A collective after the other, as training is; says when it has begun."""
    initialize_processes(options)
    mesh = Mesh(np.asarray(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, P()))
    local = np.ones((2, 8), np.float32)
    program = compile_for_all(total, place_batch(local, mesh), name="sum")
    while True:
        assert program(place_batch(local, mesh)) == 8 * mesh.size
        (directory / f"begun-{options.process_id}").touch()


CHECKS = {"check": check_together, "reduce": reduce_for_ever}


if __name__ == "__main__":
    if sys.argv[1] in CHECKS:
        coordinator, number, directory = sys.argv[2:]
        given = ProcessOptions(
            coordinator=coordinator, processes=2, process_id=int(number), heartbeat_timeout=4
        )
        CHECKS[sys.argv[1]](given, Path(directory))
    else:
        raise SystemExit(main())
