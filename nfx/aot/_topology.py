"""Slices of TPUs that are not there: their devices, and how much memory each has.

The compiler comes from the package `libtpu`, which needs no TPU to compile for one.
"""

import contextlib
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jax.experimental import topologies


class TopologyError(ValueError):
    """Devices that cannot be had: a name that no topology has, or no compiler for them."""


class Chip(NamedTuple):
    """A kind of TPU, and the slices that it comes in.

    Attributes:
        kind: What JAX calls a device of it.
        cloud: What Google Cloud calls it in the name of a slice, as "v5litepod" in "v5litepod-16".
        cloud_units: How many each chip counts for in the number of such a name: one, or its two
            cores.
        devices: Devices of JAX on each chip.
        gibibytes: Memory that the compiler lets a program have on each device. It is a little less
            than the hardware's.
        slices: Shapes of slices, in chips.
        libtpu_options: What libtpu has to be told beside the name.
    """

    kind: str
    cloud: str
    cloud_units: int
    devices: int
    gibibytes: float
    slices: tuple[str, ...]
    libtpu_options: Mapping[str, Any] = MappingProxyType({})


_SQUARE = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16",
         "8x16x16", "16x16x16")  # fmt: skip
# A device of JAX on a v4 is a chip of two cores; by default libtpu describes each core.
_MEGACORE = MappingProxyType({"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)})

# By the name before the colon. tests/test_topology.py has the compiler confirm each row.
CHIPS: Mapping[str, Chip] = MappingProxyType({
    "v3": Chip("TPU v3", "v3", 2, 2, 15.48, ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16")),
    "v4": Chip("TPU v4", "v4", 2, 1, 30.75, _CUBE, _MEGACORE),
    "v5e": Chip("TPU v5 lite", "v5litepod", 1, 1, 15.75, _SQUARE),
    "v5p": Chip("TPU v5", "v5p", 2, 1, 95.73, (*_CUBE, "16x16x24")),
    "v6e": Chip("TPU v6 lite", "v6e", 1, 1, 31.24, _SQUARE),
    "tpu7x": Chip("TPU7x", "tpu7x", 2, 2, 94.74, _CUBE),
})  # fmt: skip


def topology_devices(name: str) -> tuple[Any, ...]:
    """Returns the devices of a slice of TPUs to compile for, without having one.

    A mesh of them (`nfx.sharding.make_mesh(shape, devices)`) goes into the shardings of shapes, for
    `compile_step`; nothing can run on them. JAX's default backend stays what it is.

    Args:
        name: A chip of `CHIPS` and the shape of one of its slices, as "v5e:4x4".

    Raises:
        TopologyError: If there is no such name, or the package `libtpu` is missing.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or shape not in CHIPS[kind].slices:
        raise TopologyError(_unknown(name))
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise TopologyError(
            f"The topology {name!r} needs the compiler for TPUs, libtpu, and it is not installed. "
            "No TPU is needed: pip install 'nfx[tpu]' (Linux on x86-64)."
        )
    with _environment():
        topology = topologies.get_topology_desc(name, "tpu", **CHIPS[kind].libtpu_options)
    return tuple(topology.devices)


def libtpu_version() -> str | None:
    """Returns the version of the compiler for TPUs; None if its package is not installed."""
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return None


def memory_limit(kind: str) -> int | None:
    """Returns the bytes that a program may have on a device, by its kind as JAX calls it.

    None of kinds that `CHIPS` does not list.
    """
    found = [chip.gibibytes for chip in CHIPS.values() if chip.kind == kind]
    return int(found[0] * 2**30) if found else None


# For a machine without TPUs, while libtpu is loaded: do not ask the cloud's metadata server, let
# other processes compile too, and do not complain that nobody says what this machine is.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Sets what is not set of `_ENVIRONMENT`, and takes it away again."""
    ours = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _unknown(name: str) -> str:
    """What to say of a name that is none, with those that are."""
    meant = [
        f"{kind}:{shape}"
        for kind, chip in CHIPS.items()
        for shape in chip.slices
        if name in _cloud_names(kind, chip, shape)
    ]
    advice = f" Did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    listed = "\n".join(f"  {kind}: {', '.join(chip.slices)}" for kind, chip in CHIPS.items())
    return (
        f"There is no topology {name!r}.{advice} A topology is named by a chip and the shape of a "
        f"slice, as 'v5e:4x4' is of 16 chips. There are:\n{listed}"
    )


def _cloud_names(kind: str, chip: Chip, shape: str) -> tuple[str, str]:
    """What Google Cloud calls a slice, and what one could take that to be."""
    number = chip.cloud_units * math.prod(map(int, shape.split("x")))
    return f"{chip.cloud}-{number}", f"{kind}-{number}"
