"""What a compiler says of a program, as plain numbers."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nfx.aot._collectives import Collective


class Seconds(NamedTuple):
    """How long something took.

    Attributes:
        wall: On the clock.
        cpu: Of all threads together, which other programs disturb less.
    """

    wall: float
    cpu: float


class Memory(NamedTuple):
    """Bytes on each device. None where a compiler does not tell.

    Attributes:
        arguments: Of what the program takes.
        outputs: Of what it returns.
        aliased: Of the outputs that are written over donated arguments.
        temporaries: Of everything in between, as the compiler packs it.
        generated_code: Of the program itself.
        peak: The most at any time. On CPUs the compiler does not tell (its number leaves out the
            temporaries), and this is `arguments + outputs - aliased + temporaries`, which is never
            less than the truth.
    """

    arguments: int | None = None
    outputs: int | None = None
    aliased: int | None = None
    temporaries: int | None = None
    generated_code: int | None = None
    peak: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A compiled program in numbers. None where a compiler does not tell.

    Attributes:
        name: What was compiled.
        settings: How, as whoever compiled it says.
        platform: Kind of the devices it was compiled for, as "cpu".
        device_kind: Which of them, as "TPU v5 lite".
        devices: How many.
        jax_version: Of the JAX that compiled it.
        parameters: Numbers in the model.
        graph_flops: Twice the multiply-accumulates of its matrix products and convolutions, on
            all devices together, counted on the graph before the compiler: see `count_macs`. What
            is recomputed in the backward pass counts.
        xla_flops: Floating-point operations of one device, says XLA: of all instructions, after
            its rewrites, with the body of a loop counted once. It is wrong for stacked models.
        xla_bytes: Bytes that one device's instructions read and write, says XLA; again loops
            count once, and what stays in a cache counts as if it did not.
        memory: Bytes on each device.
        memory_limit: Bytes that a program may have there; None unless it is one of `CHIPS`.
        collectives: What devices tell each other, by kind; a loop's count once.
        stablehlo_bytes: Length of the lowered program as text.
        stablehlo_lines: Its lines.
        hlo_instructions: Instructions of the optimized program.
        trace_seconds: From Python to a jaxpr.
        lower_seconds: From the jaxpr to StableHLO.
        compile_seconds: From StableHLO to the executable.
    """

    name: str
    settings: Mapping[str, str | int | float | bool | None]
    platform: str | None
    device_kind: str | None
    devices: int
    jax_version: str
    parameters: int | None
    graph_flops: int
    xla_flops: float | None
    xla_bytes: float | None
    memory: Memory
    memory_limit: int | None
    collectives: tuple[Collective, ...] | None
    stablehlo_bytes: int
    stablehlo_lines: int
    hlo_instructions: int | None
    trace_seconds: Seconds
    lower_seconds: Seconds
    compile_seconds: Seconds

    @property
    def arithmetic_intensity(self) -> float | None:
        """XLA's operations for each of XLA's bytes: both leave out the same repeats of loops."""
        if not self.xla_flops or not self.xla_bytes:
            return None
        return self.xla_flops / self.xla_bytes

    @property
    def memory_share(self) -> float | None:
        """The part of a device's memory that is taken when the most is."""
        if self.memory.peak is None or not self.memory_limit:
            return None
        return self.memory.peak / self.memory_limit

    def to_json(self) -> str:
        """Writes the report as JSON, which `from_json` reads."""
        content = {
            field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)
        }
        derived = {name: getattr(self, name) for name in _DERIVED}
        return json.dumps({**content, **derived}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Reads what `to_json` wrote.

        Raises:
            ValueError: If the text is not JSON, or not of a report of this version.
        """
        try:
            content = dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(f"A report is a JSON object, and this is not one: {error}") from error
        for name in _DERIVED:
            content.pop(name, None)
        expected = {field.name for field in dataclasses.fields(cls)}
        missing, unknown = sorted(expected - set(content)), sorted(set(content) - expected)
        if missing or unknown:
            raise ValueError(
                f"The report has not the fields of this version of nfx: missing {missing}, unknown "
                f"{unknown}. Compile again, with --json."
            )
        return cls(**{name: _read(name, value) for name, value in content.items()})


def read_report(path: str | Path) -> Report:
    """Reads a report from a file that `Report.to_json` filled.

    Raises:
        ValueError: If there is no such file, or it is not a report.
    """
    try:
        return Report.from_json(Path(path).expanduser().read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot read a report from {str(path)!r}: {error}") from error


# What JSON has for its readers, and a report computes.
_DERIVED = ("arithmetic_intensity", "memory_share")

_NESTED = {
    "memory": Memory,
    "trace_seconds": Seconds,
    "lower_seconds": Seconds,
    "compile_seconds": Seconds,
}


def _plain(value: Any) -> Any:
    if isinstance(value, (Memory, Seconds)):
        return value._asdict()
    if isinstance(value, tuple):
        return [item._asdict() for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _read(name: str, value: Any) -> Any:
    try:
        if name in _NESTED:
            return _NESTED[name](**value)
        if name == "collectives" and value is not None:
            return tuple(Collective(**item) for item in value)
        return value
    except TypeError as error:
        raise ValueError(f"{name!r} is not as a report of this version has it: {error}") from error
