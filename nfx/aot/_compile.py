"""From a function and shapes to a compiled program and its report. Nothing is allocated."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from nfx._cache import without_compilation_cache
from nfx._show import format_bytes
from nfx._tree import parameter_count
from nfx.aot._collectives import collectives, count_instructions
from nfx.aot._macs import count_jaxpr_macs
from nfx.aot._report import Memory, Report, Seconds
from nfx.aot._topology import memory_limit


# Wraps each stage, by a name as "Tracing": to tell someone that it began and how long it took.
Progress = Callable[[str], contextlib.AbstractContextManager[Any]]


class DeviceMemoryError(Exception):
    """A program that does not fit into the memory of its devices.

    Attributes:
        used: Bytes that it would take on each.
        available: Bytes that each has.
    """

    def __init__(self, used: int, available: int) -> None:
        self.used, self.available = used, available
        super().__init__(
            f"The program needs {format_bytes(used)} of memory on each device, and "
            f"{format_bytes(available)} are available. What makes it less: a smaller batch or "
            "smaller images; more devices (--mesh data=N, or fsdp=N, which splits the state too); "
            "a batch that is taken in parts (--microbatches N); blocks that are computed again in "
            "the backward pass (--stack --remat full); activations in bfloat16 (--precision mixed)."
        )


class LoweredProgram(NamedTuple):
    """A program that is ready for a compiler.

    Attributes:
        traced: Its graph.
        lowered: StableHLO.
        trace_seconds: How long tracing took.
        lower_seconds: How long lowering took.
    """

    traced: jax.stages.Traced
    lowered: jax.stages.Lowered
    trace_seconds: Seconds
    lower_seconds: Seconds


class CompiledProgram(NamedTuple):
    """A program that can be called, and what its compiler says of it."""

    compiled: jax.stages.Compiled
    report: Report


def silent(stage: str) -> contextlib.AbstractContextManager[None]:
    """Shows nothing."""
    return contextlib.nullcontext()


def lower(function: Callable[..., Any], *args: Any, progress: Progress = silent) -> LoweredProgram:
    """Traces and lowers a function, for the devices that the shardings of `args` name.

    Args:
        function: A function of arrays, jitted or not.
        *args: Its arguments, as `jax.ShapeDtypeStruct` with shardings where they matter.
        progress: What to show meanwhile.
    """
    jitted = function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)
    with progress("Tracing"), _timed() as trace_seconds:
        traced = jitted.trace(*args)
    with progress("Lowering"), _timed() as lower_seconds:
        lowered = traced.lower()
    return LoweredProgram(traced, lowered, trace_seconds(), lower_seconds())


def compile_step(
    function: Callable[..., Any],
    *args: Any,
    name: str = "",
    settings: Mapping[str, str | int | float | bool | None] | None = None,
    model: PyTree | None = None,
    progress: Progress = silent,
) -> CompiledProgram:
    """Compiles a function from the shapes of its arguments, and reports what that gives.

    The persistent compilation cache is not used, so that the seconds are those of a compiler.
    JAX remembers what one process has compiled: the second time, they are near zero.

    Args:
        function: A function of arrays, jitted or not: a training step, or any other.
        *args: Its arguments, as `jax.ShapeDtypeStruct` with shardings where they matter.
        name: What to call it in the report; by default the function's name.
        settings: What to remember beside the numbers.
        model: The model among the arguments, for the number of its parameters.
        progress: What to show meanwhile.

    Raises:
        DeviceMemoryError: If the compiler says that the devices have not enough memory.
    """
    program = lower(function, *args, progress=progress)
    with without_compilation_cache(), progress("Compiling"), _timed() as compile_seconds:
        compiled = _compile(program.lowered)
    stablehlo, hlo = program.lowered.as_text(), _text(compiled)
    devices = _devices(compiled)
    device = next(iter(devices), None)
    platform, kind = (device.platform, device.device_kind) if device else (None, None)
    costs = _costs(compiled)
    report = Report(
        name=name or program.traced.fun_name,
        settings=dict(settings or {}),
        platform=platform,
        device_kind=kind,
        devices=max(len(devices), 1),
        jax_version=jax.__version__,
        parameters=None if model is None else parameter_count(model),
        graph_flops=2 * count_jaxpr_macs(program.traced.jaxpr),
        xla_flops=costs.get("flops"),
        xla_bytes=costs.get("bytes accessed"),
        memory=_memory(compiled, platform),
        memory_limit=memory_limit(kind or ""),
        collectives=collectives(hlo) if hlo else None,
        stablehlo_bytes=len(stablehlo.encode()),
        stablehlo_lines=stablehlo.count("\n"),
        hlo_instructions=count_instructions(hlo) if hlo else None,
        trace_seconds=program.trace_seconds,
        lower_seconds=program.lower_seconds,
        compile_seconds=compile_seconds(),
    )
    return CompiledProgram(compiled, report)


@contextlib.contextmanager
def _timed() -> Iterator[Callable[[], Seconds]]:
    """Times a block; what it gives returns the seconds once the block is over."""
    seconds: list[Seconds] = []
    wall, cpu = time.monotonic(), time.process_time()
    yield lambda: seconds[0]
    seconds.append(Seconds(time.monotonic() - wall, time.process_time() - cpu))


# Of a TPU's compiler; others find out when a program is loaded.
_OUT_OF_MEMORY = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")


def _compile(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if found := _OUT_OF_MEMORY.search(str(error)):
            raise DeviceMemoryError(
                _bytes(*found.group(1, 2)), _bytes(*found.group(3, 4))
            ) from error
        raise


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))


def _devices(compiled: jax.stages.Compiled) -> Set[Any]:
    """The devices that a program was compiled for."""
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    # An argument that is not used has no sharding.
    sets = [sharding.device_set for sharding in shardings if hasattr(sharding, "device_set")]
    return max(sets, key=len, default=set())


def _text(compiled: jax.stages.Compiled) -> str | None:
    """The optimized program, if its compiler gives it and this version of JAX can read it."""
    try:
        return compiled.as_text()
    except (NotImplementedError, RuntimeError):
        return None


def _costs(compiled: jax.stages.Compiled) -> dict[str, float]:
    """What XLA says of costs, without the numbers that it gives for "unknown"."""
    try:
        costs = compiled.cost_analysis()
    except (NotImplementedError, RuntimeError):  # not every compiler has one
        return {}
    numbers = costs.items() if isinstance(costs, Mapping) else ()
    return {name: float(value) for name, value in numbers if value >= 0}


def _memory(compiled: jax.stages.Compiled, platform: str | None) -> Memory:
    try:
        stats = compiled.memory_analysis()
    except (NotImplementedError, RuntimeError):
        stats = None
    if stats is None:
        return Memory()
    arguments, outputs = stats.argument_size_in_bytes, stats.output_size_in_bytes
    aliased, temporaries = stats.alias_size_in_bytes, stats.temp_size_in_bytes
    peak = getattr(stats, "peak_memory_in_bytes", 0)
    if platform == "cpu" or not peak:
        peak = arguments + outputs - aliased + temporaries
    code = stats.generated_code_size_in_bytes
    return Memory(arguments, outputs, aliased, temporaries, code, peak)
