"""Meshes by name, and where a batch and a state live on them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import Array, Int, PyTree


# The axes nfx gives a meaning to, outermost first: the batch is split over the first two.
MESH_AXES = ("data", "fsdp", "model")
BATCH_AXES = ("data", "fsdp")

# With devices or without.
AnyMesh = Mesh | AbstractMesh


def make_mesh(
    shape: Mapping[str, int],
    devices: Sequence[Any] | None = None,
    *,
    axis_type: AxisType = AxisType.Auto,
) -> Mesh:
    """Arranges devices in a mesh with named axes, neighbors in the machine next to each other.

    Slices of TPUs are joined by a slower network: the axis "data" goes over them, outermost.

    Args:
        shape: Size of each axis, as `{"data": 4, "fsdp": 2}`: any of `MESH_AXES` in any order,
            size one allowed.
        devices: The devices to use, all that JAX has by default.
        axis_type: Who decides where arrays inside `jit` live: the partitioner (`AxisType.Auto`),
            or their types (`AxisType.Explicit`).

    Raises:
        ValueError: If an axis is unknown or empty, the sizes do not multiply to the number of
            devices, or "data" does not divide over the slices.
    """
    devices = jax.devices() if devices is None else devices
    _check_axes(shape)
    if math.prod(shape.values()) != len(devices):
        platform, needed = devices[0].platform, math.prod(shape.values())
        hint = (
            " To try a mesh on CPU, set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={needed} before Python starts."
        )
        raise ValueError(
            f"The mesh {dict(shape)} needs {needed} devices, and there are "
            f"{len(devices)} ({platform}). Sizes must multiply to the number of devices."
            f"{hint if platform == 'cpu' else ''}"
        )
    # The type by name: the default of `jax.make_mesh` differs between versions of JAX.
    return Mesh(_arranged(shape, devices), tuple(shape), axis_types=(axis_type,) * len(shape))


def abstract_mesh(shape: Mapping[str, int]) -> AbstractMesh:
    """Makes a mesh without devices, to plan with.

    Args:
        shape: Size of each axis: see `make_mesh`.

    Raises:
        ValueError: If an axis is unknown or empty.
    """
    _check_axes(shape)
    return AbstractMesh(tuple(shape.values()), tuple(shape))


def _check_axes(shape: Mapping[str, int]) -> None:
    if any(axis not in MESH_AXES for axis in shape) or not shape:
        raise ValueError(
            f"A mesh has axes among {', '.join(MESH_AXES)}; got {dict(shape)}. For one device: "
            '{"data": 1}.'
        )
    if any(size < 1 for size in shape.values()):
        raise ValueError(f"The sizes of the mesh {dict(shape)} must be positive.")


def _arranged(shape: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        # An axis may be larger than any of the machine's own, and is then several of them.
        return mesh_utils.create_device_mesh(
            tuple(shape.values()), devices, allow_split_physical_axes=True
        )
    if shape.get("data", 1) % slices:
        raise ValueError(
            f"The mesh {dict(shape)} is over {slices} slices, and its axis 'data' goes over them: "
            f"its size must be a multiple of {slices}."
        )
    across = {"data": slices}
    within = {axis: size // across.get(axis, 1) for axis, size in shape.items()}
    return mesh_utils.create_hybrid_device_mesh(
        tuple(within.values()),
        tuple(across.get(axis, 1) for axis in shape),
        devices,
        allow_split_physical_axes=True,
    )


def parse_mesh_shape(text: str, devices: int) -> dict[str, int]:
    """Parses `"data=4,fsdp=2"`; one size may be `all`: the devices that the others leave.

    Args:
        text: Axes and their sizes.
        devices: Number of devices, to know what `all` is.

    Raises:
        ValueError: If the text does not read so, or the other sizes do not divide the devices.
    """
    pairs = [(axis, size) for axis, _, size in (pair.partition("=") for pair in text.split(","))]
    if any(not (size.isdecimal() or size == "all") for _, size in pairs) or (
        [size for _, size in pairs].count("all") > 1 or len(dict(pairs)) < len(pairs)
    ):
        raise ValueError(
            f"Cannot read the mesh {text!r}. Write axes and sizes, each axis once, as 'data=4' or "
            "'data=all'."
        )
    known = max(math.prod(int(size) for _, size in pairs if size != "all"), 1)
    if "all" in dict(pairs).values() and devices % known:
        raise ValueError(
            f"The mesh {text!r} leaves no whole number of the {devices} devices for 'all': the "
            "other sizes must divide it."
        )
    return {axis: devices // known if size == "all" else int(size) for axis, size in pairs}


def format_mesh(shape: Mapping[str, int]) -> str:
    """Writes the sizes of a mesh's axes as `parse_mesh_shape` reads them."""
    return ",".join(f"{axis}={size}" for axis, size in shape.items())


def read_mesh(text: str, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes the mesh that a text describes: see `parse_mesh_shape` and `make_mesh`.

    Args:
        text: Axes and their sizes.
        devices: The devices to use, all that JAX has by default.

    Raises:
        ValueError: If the text does not read so, or the mesh and the devices do not fit.
    """
    devices = jax.devices() if devices is None else devices
    return make_mesh(parse_mesh_shape(text, len(devices)), devices)


def batch_axes(mesh: AnyMesh) -> tuple[str, ...]:
    """Returns the axes of `mesh` that the batch is split over."""
    return tuple(axis for axis in mesh.axis_names if axis in BATCH_AXES)


def batch_spec(mesh: AnyMesh) -> P:
    """Returns the spec of arrays whose first axis is the global batch."""
    return P(batch_axes(mesh))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, P())


def constrain(tree: PyTree, shardings: PyTree[NamedSharding]) -> PyTree:
    """Says inside `jit` where arrays live, in JAX's Auto and in its Explicit mode.

    Args:
        tree: Arrays.
        shardings: Theirs, or one for all.
    """
    mesh = jax.tree.leaves(shardings)[0].mesh
    explicit = AxisType.Explicit in mesh.axis_types
    move = jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint
    return move(tree, shardings)


def batch_shards(mesh: AnyMesh) -> int:
    """Returns the number of parts that the batch is split into."""
    return math.prod(mesh.shape[axis] for axis in batch_axes(mesh))


def check_batch_divides(mesh: AnyMesh, batch_size: int) -> None:
    """Raises a `ValueError` if `batch_size` examples do not split evenly over `mesh`."""
    shards = batch_shards(mesh)
    if batch_size % shards:
        raise ValueError(
            f"A batch of {batch_size} images does not divide into {shards} parts "
            f"({dict(mesh.shape)}): take a multiple of {shards}, or another mesh."
        )


def local_example_indices(mesh: Mesh, count: int) -> Int[Array, " {count}"]:
    """Returns the global indices of this device's `count` examples; inside `shard_map`."""
    axes = batch_axes(mesh)
    start: Any = jax.lax.axis_index(axes) * count if axes else 0
    return start + jax.numpy.arange(count)
