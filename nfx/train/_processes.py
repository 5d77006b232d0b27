"""Training by several processes, one to a host: joining, waiting, and who loads what.

All processes run the same program on their own devices. What they compute together is the
business of JAX; here is what they have to agree on around it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from nfx.data import Batch
from nfx.sharding import batch_shards, batch_spec


# How long to wait for processes that are doing something long, as compiling. One that has died
# is noticed sooner, by its heartbeats.
_PATIENCE_SECONDS = 3600

# How long a process that ends with an error waits for the others to end. It is short, because
# they are waiting for it; processes that end without one wait for each other before.
_SHUTDOWN_SECONDS = 10

# Tells the places at which processes wait apart: all come to all of them, in the same order.
_places = itertools.count()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """How this process finds the others of a run. None of this changes the result.

    Attributes:
        distributed: This is one of several processes, which JAX finds by itself: on Cloud TPU, and
            under SLURM, Open MPI and Kubernetes.
        coordinator: HOST:PORT of process 0, where JAX cannot find it: the port is any free one.
        processes: With a coordinator, how many processes there are.
        process_id: With a coordinator, which of them this is, from 0.
        heartbeat_timeout: Seconds of silence after which a process is taken for dead, and all
            others end.
    """

    distributed: bool = False
    coordinator: str = ""
    processes: int | None = None
    process_id: int | None = None
    heartbeat_timeout: int = 60

    def __post_init__(self) -> None:
        """Checks that the options fit together.

        Raises:
            ValueError: If they do not.
        """
        explicit = (bool(self.coordinator), self.processes is not None, self.process_id is not None)
        if any(explicit) != all(explicit):
            raise ValueError(
                f"coordinator={self.coordinator!r}, processes={self.processes} and process_id="
                f"{self.process_id} come together: give all three, or --distributed alone."
            )
        if self.distributed and self.coordinator:
            raise ValueError(
                "--distributed is for where JAX finds the coordinator, and "
                f"coordinator={self.coordinator!r} was given: leave one of them out."
            )
        host, _, port = self.coordinator.rpartition(":")
        if self.coordinator and not (host and port.isdecimal()):
            raise ValueError(f"coordinator={self.coordinator!r} must be HOST:PORT.")
        if self.processes is not None and not 0 <= (self.process_id or 0) < self.processes:
            raise ValueError(
                f"process_id={self.process_id} must be in 0 ... processes - 1, and processes is "
                f"{self.processes}."
            )
        if self.heartbeat_timeout < 1:
            raise ValueError(f"heartbeat_timeout={self.heartbeat_timeout} must be at least 1.")


def initialize_processes(options: ProcessOptions) -> None:
    """Joins the other processes, if the options say that there are any.

    To be called before anything is computed. From then on a process that dies ends all others
    too, with a non-zero exit code.

    Raises:
        ValueError: If the other processes are to be found, and JAX knows of none.
        RuntimeError: If they cannot be reached.
    """
    if not (options.distributed or options.coordinator):
        return
    # It takes SIGTERM for an announcement, and then the process could not be stopped by it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            options.coordinator or None,
            options.processes,
            options.process_id,
            cluster_detection_method="deactivate" if options.coordinator else None,
            heartbeat_timeout_seconds=options.heartbeat_timeout,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        raise ValueError(
            f"JAX finds no other processes here ({error}). Give --coordinator HOST:PORT, "
            "--processes N and --process-id I, or start a single process without --distributed."
        ) from error


def is_first_process() -> bool:
    """Whether this process is the one that writes and says things for all."""
    return jax.process_index() == 0


def process_suffix() -> str:
    """What tells files of this process from those of others in one directory: "-1", "-2" ...

    Those of the first process have none.
    """
    number = jax.process_index()
    return f"-{number}" if number else ""


def wait_for_all(name: str) -> None:
    """Waits until every process has come here; returns at once if this is the only one.

    It takes no collective: those of CPUs fail when a process comes to them half a minute late.

    Args:
        name: What to call this place, in the message if a process does not come.

    Raises:
        RuntimeError: If a process does not come within an hour.
    """
    if jax.process_count() == 1:
        return
    import orbax.checkpoint as ocp  # slow to import

    wait = ocp.multihost.get_barrier_sync_fn()
    wait(key=f"nfx {next(_places)}: {name}", timeout_ms=1000 * _PATIENCE_SECONDS)


def number_of_first(number: int) -> int:
    """Returns the number that process 0 has, in every process: they may see files differently."""
    if jax.process_count() == 1:
        return number
    wait_for_all("agreed on a number")
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def any_process(holds: bool) -> bool:
    """Whether something holds in any process: all must ask at the same place.

    It takes a collective, so all have to come within seconds, as after a step that they made
    together.
    """
    if jax.process_count() == 1:
        return holds
    return bool(np.any(multihost_utils.process_allgather(np.int32(holds))))


def compile_for_all(program: jax.stages.Wrapped, *arguments: Any, name: str) -> jax.stages.Compiled:
    """Compiles a program and waits until every process has, so that they start it together.

    Args:
        program: A jitted function.
        arguments: Its arguments, or their shapes.
        name: What to call it.
    """
    compiled = program.lower(*arguments).compile()
    wait_for_all(f"compiled {name}")
    return compiled


def load_parts(load: Callable[[int, int], Iterator[Batch]], mesh: Mesh) -> Iterator[Batch]:
    """Loads what the devices of this process need of each global batch.

    That need not be one block of it: meshes follow the wires between devices, and an axis may
    go back and forth between hosts, or two hosts hold parts of a model for the same examples.

    Args:
        load: `(host, hosts) -> batches`, as `nfx.data.training_batches`.
        mesh: Where the batches will live.
    """
    mine = _blocks_of_process(mesh, jax.process_index())
    parts, count = group_blocks(mine, batch_shards(mesh))
    loaded = [load(part, count) for part in parts]
    return loaded[0] if len(loaded) == 1 else map(_joined, zip(*loaded, strict=True))


def group_blocks(blocks: Collection[int], count: int) -> tuple[list[int], int]:
    """Merges numbered blocks of a whole into the largest equal parts of it.

    Args:
        blocks: Numbers of blocks, as 0, 1, 4 and 5.
        count: How many blocks the whole has, as 16.

    Returns:
        Numbers of parts, as 0 and 2, and how many parts the whole has, as 8.
    """
    widths = (width for width in range(count, 0, -1) if count % width == 0)
    for width in widths:
        parts = sorted({block // width for block in blocks})
        if len(parts) * width == len(blocks):
            return parts, count // width
    raise ValueError(f"The blocks {sorted(blocks)} must be different ones of {count}.")


def _blocks_of_process(mesh: Mesh, process: int) -> set[int]:
    """Which of the blocks that the mesh splits a batch into are on a process's devices."""
    places = NamedSharding(mesh, batch_spec(mesh)).devices_indices_map((batch_shards(mesh),))
    return {
        place[0].start or 0 for device, place in places.items() if device.process_index == process
    }


def _joined(batches: tuple[Batch, ...]) -> Batch:
    return Batch(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
