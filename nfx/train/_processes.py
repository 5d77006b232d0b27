"""Training by several processes, one to a host: joining and waiting.

All processes run the same program on their own devices. What they compute together is the
business of JAX; here is what they have to agree on around it.
"""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from nfx._checks import at_least


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
        at_least(1, heartbeat_timeout=self.heartbeat_timeout)


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
