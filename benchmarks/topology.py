"""What the compiler for TPUs makes of training steps on slices that are not there.

    python benchmarks/topology.py                             # every row: half an hour or more
    python benchmarks/topology.py --rows F0 "F0 stacked" --reports kept/

From shapes alone, in bfloat16 with parameters and statistics in float32 ("mixed"). It needs
libtpu: pip install 'nfx[tpu]'.
"""

import argparse
from pathlib import Path

import jax
from _measure import machine, markdown, peak_gigabytes

from nfx.aot import DeviceMemoryError, read_report, Report
from nfx.recipes import compile_model, CompileOptions


# Models, and the options of `nfx compile` beside bfloat16: a row of the table each.
_F0 = {"topology": "v5e:4x4", "batch_size": 1024}
_F6 = {"topology": "v5e:16x16", "batch_size": 1024}
ROWS = {
    "F0": ("nfnet_f0", _F0),
    "F0 stacked": ("nfnet_f0", {**_F0, "stack": True}),
    "F0 stacked, remat convs": ("nfnet_f0", {**_F0, "stack": True, "remat": "convs"}),
    "F0 stacked, remat full": ("nfnet_f0", {**_F0, "stack": True, "remat": "full"}),
    "F0 stacked, gradients in bfloat16": (
        "nfnet_f0",
        {**_F0, "stack": True, "reduce_dtype": "bfloat16"},
    ),
    "F0 stacked, fsdp x model": (
        "nfnet_f0",
        {"topology": "v5p:2x2x2", "batch_size": 512, "stack": True, "mesh": "fsdp=4,model=2"},
    ),
    "F6 stacked": ("nfnet_f6", {**_F6, "stack": True}),
    "F6 stacked, remat full": ("nfnet_f6", {**_F6, "stack": True, "remat": "full"}),
    "F6 stacked, remat full, fsdp": (
        "nfnet_f6",
        {**_F6, "stack": True, "remat": "full", "mesh": "data=16,fsdp=16"},
    ),
}


def compiled(name, reports):
    """The report of a row; one that is among the kept reports is not compiled again."""
    path = reports and reports / f"{name.replace(' ', '_')}.json"
    if path and path.exists():
        return read_report(path)
    model, how = ROWS[name]
    jax.clear_caches()
    report = compile_model(model, CompileOptions(**{"precision": "mixed", **how})).report
    if path:
        path.write_text(report.to_json())
    return report


def row(name: str, report: Report):
    memory, seconds = report.memory, report.compile_seconds
    sizes = [(size or 0) / 2**30 for size in (memory.arguments, memory.temporaries, memory.peak)]
    found = [
        f"{number} {kind}, {size / 1e6:.0f} MB" for kind, number, size in report.collectives or ()
    ]
    settings = report.settings
    return [
        name,
        f"{settings['topology']}, {settings['mesh']}",
        f"{settings['batch_size']} @ {settings['image_size']}",
        " + ".join(f"{size:.2f}" for size in sizes[:2]),
        f"{sizes[2]:.2f} ({report.memory_share or 0:.0%})",
        f"{report.graph_flops / report.devices / 1e12:.2f}",
        "; ".join(found),
        f"{report.hlo_instructions or 0:,}",
        f"{report.trace_seconds.cpu + report.lower_seconds.cpu:.0f} + {seconds.cpu:.0f}",
    ]


HEADER = [
    "NFNet",
    "slice",
    "batch",
    "arguments + temporaries, GiB",
    "peak, GiB (of the available)",
    "TFLOP a device",
    "collectives",
    "HLO instructions",
    "trace and lower + compile, CPU s",
]


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--reports", type=Path, help="a directory to keep the reports in")
    arguments = parser.parse_args()
    if arguments.reports:
        arguments.reports.mkdir(parents=True, exist_ok=True)
    print(machine("jax", "libtpu", "equinox", "nfx") + "\n")
    rows = []
    for name in arguments.rows:
        try:
            rows.append(row(name, compiled(name, arguments.reports)))
        except DeviceMemoryError as error:
            rows.append([name, str(error).partition(". ")[0], *[""] * (len(HEADER) - 2)])
        print(rows[-1], flush=True)
    print("\n" + markdown(HEADER, rows))
    print(f"\nPeak memory of the process: {peak_gigabytes():.1f} GiB.")


if __name__ == "__main__":
    main()
