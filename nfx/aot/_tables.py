"""Reports for a person to read, alone and side by side."""

import math
from collections.abc import Callable
from typing import NamedTuple, TYPE_CHECKING

from nfx._show import format_bytes, plain_table
from nfx.aot._report import Report, Seconds


if TYPE_CHECKING:
    from rich.table import Table


Number = int | float


class Difference(NamedTuple):
    """One number of two reports.

    Attributes:
        quantity: What it is of, as "memory per device: temporaries".
        before: Its value in the first report; None where it is not known.
        after: In the second.
        ratio: `after / before`; None where that has no meaning.
    """

    quantity: str
    before: Number | None
    after: Number | None
    ratio: float | None


class _Row(NamedTuple):
    quantity: str
    value: Number | None
    show: Callable[[Number], str]


def diff(before: Report, after: Report) -> list[Difference]:
    """Compares two reports, number by number.

    A collective that only one of them has is there zero times in the other, if its are known.
    """
    both = [(report, _values(report)) for report in (before, after)]
    names = dict.fromkeys(name for _, values in both for name in values)
    pairs = [
        (name, *(values.get(name, _missing(report, name)) for report, values in both))
        for name in names
    ]
    return [Difference(name, a, b, b / a if a and b is not None else None) for name, a, b in pairs]


def _missing(report: Report, name: str) -> int | None:
    return 0 if name.startswith(_COLLECTIVE) and report.collectives is not None else None


def report_table(report: Report) -> "Table":
    """Makes a table of a report, for `rich`'s console."""
    table = plain_table(f"{report.name}{_verdict(report)}", _FOOTNOTES)
    table.show_header = False
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right")
    for name, value in _settings(report).items():
        table.add_row(name, value)
    for row in _rows(report):
        table.add_row(row.quantity, _shown(row, row.value))
    return table


def _verdict(report: Report) -> str:
    """What is looked for first, where the devices' memory is known."""
    if report.memory.peak is None or not report.memory_limit:
        return ""
    peak, limit = format_bytes(report.memory.peak), format_bytes(report.memory_limit)
    return f": {peak} of {limit} on each device"


def diff_table(before: Report, after: Report) -> "Table":
    """Makes a table of two reports side by side, and by what factor they differ."""
    table = plain_table(" -> ".join(dict.fromkeys((before.name, after.name))), "")
    table.add_column("", no_wrap=True)
    for column in ("before", "after", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    old_settings, new_settings = _settings(before), _settings(after)
    for name in dict.fromkeys([*old_settings, *new_settings]):
        table.add_row(name, old_settings.get(name, ""), new_settings.get(name, ""), "")
    rows = {row.quantity: row for report in (before, after) for row in _rows(report)}
    for name, old, new, ratio in diff(before, after):
        shown = "" if ratio is None else f"{ratio:.3g}"
        table.add_row(name, _shown(rows[name], old), _shown(rows[name], new), shown)
    return table


_COLLECTIVE = "collectives: "

_FOOTNOTES = (
    "XLA counts the body of a loop once, in operations, bytes and collectives.\n"
    "Collectives: how many, and the bytes that they work on, on one device."
)


def _rows(report: Report) -> list[_Row]:
    """Everything a report has a number for, in the order to show it."""
    memory = report.memory._asdict()
    peak = "peak (sum)" if report.platform == "cpu" else "peak"
    seconds = {
        "trace": report.trace_seconds,
        "lower": report.lower_seconds,
        "compile": report.compile_seconds,
    }
    return [
        _Row("parameters", report.parameters, _count),
        _Row("FLOPs, on the graph", report.graph_flops, _scaled),
        _Row("FLOPs per device, by XLA", report.xla_flops, _scaled),
        _Row("bytes accessed per device, by XLA", report.xla_bytes, format_bytes),
        _Row("FLOPs a byte, by XLA", report.arithmetic_intensity, "{:.3g}".format),
        *(
            _Row(
                f"memory per device: {peak if kind == 'peak' else _words(kind)}",
                value,
                format_bytes,
            )
            for kind, value in memory.items()
        ),
        *_limit(report),
        *_collectives(report),
        _Row("StableHLO, as text", report.stablehlo_bytes, format_bytes),
        _Row("StableHLO lines", report.stablehlo_lines, _count),
        _Row("optimized HLO instructions", report.hlo_instructions, _count),
        *(
            _Row(f"{stage} seconds, {clock}", getattr(value, clock), "{:.2f}".format)
            for stage, value in seconds.items()
            for clock in Seconds._fields
        ),
    ]


def _limit(report: Report) -> list[_Row]:
    if not report.memory_limit:
        return []
    return [
        _Row("memory per device: available", report.memory_limit, format_bytes),
        _Row("memory per device: peak, of the available", report.memory_share, "{:.1%}".format),
    ]


def _collectives(report: Report) -> list[_Row]:
    if report.collectives is None:
        return [_Row("collectives", None, _count)]
    return [
        row
        for kind, number, size in report.collectives
        for row in (
            _Row(f"{_COLLECTIVE}{kind}", number, _count),
            _Row(f"{_COLLECTIVE}{kind}, bytes", size, format_bytes),
        )
    ]


def _values(report: Report) -> dict[str, Number | None]:
    return {row.quantity: row.value for row in _rows(report)}


def _settings(report: Report) -> dict[str, str]:
    """How it was compiled, for people."""
    settings = {name: str(value) for name, value in report.settings.items() if value is not None}
    plural = "s" if report.devices > 1 else ""
    devices = f"{report.devices} {report.platform or 'unknown'} device{plural}"
    if report.device_kind not in (report.platform, None):
        devices = f"{devices}, {report.device_kind}"
    return {**settings, "compiled for": devices, "jax": report.jax_version}


def _shown(row: _Row, value: Number | None) -> str:
    return "unknown" if value is None else row.show(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _count(value: Number) -> str:
    return f"{value:,.0f}"


def _scaled(value: Number) -> str:
    """In units of a thousand: `"1.23 G"`."""
    power = min(int(math.log(value, 1000)), 5) if value >= 1000 else 0
    return f"{value / 1000**power:.4g} {['', 'k', 'M', 'G', 'T', 'P'][power]}".rstrip()
