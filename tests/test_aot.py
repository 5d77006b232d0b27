"""What a compiled program is said to cost, against closed forms; and the cache."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec as P
from rich.console import Console

from nfx import aot
from nfx._show import format_bytes
from nfx.sharding import make_mesh


def shaped(*shape, dtype=jnp.float32, sharding=None):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


@pytest.fixture(scope="module")
def product():
    return aot.compile_step(
        lambda a, b: a @ b, shaped(64, 32), shaped(32, 16), name="product", model={"a": shaped(3)},
        settings={"m": 64},
    )  # fmt: skip


def test_a_product_costs_what_it_costs(product):
    report = product.report
    assert report.graph_flops == 2 * 64 * 32 * 16
    assert report.xla_flops == 2 * 64 * 32 * 16
    sizes = [4 * 64 * 32, 4 * 32 * 16, 4 * 64 * 16]
    assert report.xla_bytes == sum(sizes)
    assert report.arithmetic_intensity == report.xla_flops / sum(sizes)
    assert report.memory.arguments == sum(sizes[:2])
    assert report.memory.outputs == sizes[2]
    assert report.memory.aliased == 0
    assert report.memory.peak == sum(sizes) + report.memory.temporaries
    assert report.collectives == ()
    assert (report.parameters, report.platform, report.devices) == (3, "cpu", 1)
    assert report.stablehlo_lines > 3
    assert report.stablehlo_bytes > 100
    assert report.hlo_instructions >= 3
    for seconds in (report.trace_seconds, report.lower_seconds, report.compile_seconds):
        assert seconds.wall > 0
        assert seconds.cpu > 0


def test_the_program_runs(product):
    a, b = jnp.ones((64, 32)), jnp.ones((32, 16))
    assert (product.compiled(a, b) == 32).all()


def test_a_loop_counts_as_often_as_it_runs_on_the_graph_and_once_by_xla():
    def repeated(carry, matrix):
        return jax.lax.scan(lambda c, _: (c @ matrix, None), carry, length=7)[0]

    report = aot.compile_step(repeated, shaped(32, 32), shaped(32, 32)).report
    assert report.graph_flops == 7 * 2 * 32**3
    assert report.xla_flops < 2 * 2 * 32**3
    assert report.name == "repeated"


def test_donated_arguments_are_aliased():
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    memory = aot.compile_step(step, shaped(256)).report.memory
    assert memory.aliased == memory.arguments == memory.outputs == 1024
    assert memory.peak == 1024 + memory.temporaries


def test_an_argument_that_is_not_used_does_not_hide_the_devices():
    split = NamedSharding(make_mesh({"data": 8}), P("data"))
    step = lambda unused, x: x * 2
    report = aot.compile_step(step, shaped(3), shaped(16, sharding=split)).report
    assert report.devices == 8
    assert report.memory.outputs == 8


def test_nothing_is_allocated():
    seen = []

    @jax.jit
    def step(x):
        return x @ x

    before = len(jax.live_arrays())
    progress = lambda stage: seen.append((stage, len(jax.live_arrays()))) or aot.silent(stage)
    aot.compile_step(step, shaped(2**17, 2**17), progress=progress)  # 64 GiB
    assert seen == [(stage, before) for stage in ("Tracing", "Lowering", "Compiling")]
    assert len(jax.live_arrays()) == before


def communicate(x, w):
    """Each kind of collective once, of x (8, 16) and w (16, 32) on each device; one in a loop."""
    total = jax.lax.psum(x @ w, "data")
    gathered = jax.lax.all_gather(x, "data", tiled=True)
    scattered = jax.lax.psum_scatter(gathered @ w, "data", tiled=True)
    exchanged = jax.lax.all_to_all(scattered, "data", 1, 0, tiled=True)
    moved = jax.lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)])
    looped, _ = jax.lax.scan(lambda c, _: (jax.lax.psum(c, "data") * 0.1, None), x[0, :3], length=5)
    return total, scattered, exchanged, moved, looped


def test_collectives_are_counted_with_their_bytes():
    mesh = make_mesh({"data": 8})
    split, whole = (NamedSharding(mesh, spec) for spec in (P("data"), P()))
    step = jax.shard_map(
        communicate, mesh=mesh, in_specs=(P("data"), P()), check_vma=False,
        out_specs=(P(), P("data"), P("data"), P("data"), P()),
    )  # fmt: skip
    report = aot.compile_step(
        step, shaped(64, 16, sharding=split), shaped(16, 32, sharding=whole)
    ).report
    assert report.collectives == (
        ("all-reduce", 2, 4 * (8 * 32 + 3)),  # the loop's once
        ("all-gather", 1, 4 * 64 * 16),
        ("reduce-scatter", 1, 4 * 64 * 32),  # before it is scattered
        ("all-to-all", 1, 4 * 8 * 32),
        ("collective-permute", 1, 4 * 8 * 16),
    )
    # Of all devices together: those of 8 rows and those of 64, on each of 8 devices.
    assert report.graph_flops == 2 * 8 * (8 + 64) * 16 * 32


# Instructions as compilers print them: (text, what is in it).
PRINTED = {
    "all-reduce": (
        "  ROOT %psum.7 = f32[8,32]{1,0} all-reduce(%dot), channel_id=1, "
        "replica_groups=mesh['data'=8] {'data'}, use_global_device_ids=true, to_apply=%region_0.0",
        [("all-reduce", 1, 1024)],
    ),
    "of a tuple": (
        "  %all-reduce.6 = (bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, f32[]{:T(128)}, "
        "/*index=2*/pred[3]{0}) all-reduce(%a, %b, %c), channel_id=2, "
        "replica_groups=[1,16]<=[16], to_apply=%add",
        [("all-reduce", 1, 64 + 4 + 3)],
    ),
    "one channel for all": (
        "  %a = f32[2]{0} all-reduce(%x), channel_id=1, to_apply=%add\n"
        "  %b = f32[2]{0} all-reduce(%y), channel_id=1, to_apply=%add",
        [("all-reduce", 2, 16)],
    ),
    "asynchronous all-reduce": (
        "  %all-reduce-start.1 = f32[16]{0} all-reduce-start(%x), channel_id=3, to_apply=%add\n"
        "  %all-reduce-done.1 = f32[16]{0} all-reduce-done(%all-reduce-start.1)",
        [("all-reduce", 1, 64)],
    ),
    "asynchronous all-gather": (
        "  %s = (f32[2,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%x), channel_id=4\n"
        "  %d = f32[16,4]{1,0} all-gather-done(%s)",
        [("all-gather", 1, 256)],
    ),
    "asynchronous all-gather of two": (
        "  %s = ((f32[2]{0}, bf16[2]{0}), (f32[16]{0}, bf16[16]{0})) all-gather-start(%x, %y), "
        "channel_id=4, dimensions={0}",
        [("all-gather", 1, 64 + 32)],
    ),
    "asynchronous permute": (
        "  %s = (bf16[8]{0}, bf16[8]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), "
        "channel_id=5, source_target_pairs={{0,1},{1,0}}\n"
        "  %d = bf16[8]{0} collective-permute-done(%s)",
        [("collective-permute", 1, 16)],
    ),
    "reduce-scatter by the name of its operand": (
        "  %big.1 = f32[64,32]{1,0:T(8,128)} fusion(%p), kind=kLoop, calls=%c\n"
        "  %r = f32[8,32]{1,0} reduce-scatter(%big.1), channel_id=1, dimensions={0}, to_apply=%add",
        [("reduce-scatter", 1, 4 * 64 * 32)],
    ),
    "reduce-scatter with the type of its operand": (
        "  %r = f32[8]{0} reduce-scatter(f32[64]{0} %big), channel_id=1, to_apply=%add",
        [("reduce-scatter", 1, 256)],
    ),
    "asynchronous reduce-scatter": (
        "  %s = ((f32[64]{0}), f32[8]{0}) reduce-scatter-start(%x), channel_id=1, dimensions={0}",
        [("reduce-scatter", 1, 256)],
    ),
    "all-to-all of a tuple": (
        "  %all-to-all = (f32[8,4]{1,0}, f32[8,4]{1,0}) all-to-all(%a, %b), channel_id=1",
        [("all-to-all", 1, 256)],
    ),
    # A TPU's: started in one fusion, carried on beside a product in another, done in a third.
    "repeated in fusions": (
        "%fused_computation.62 (p: bf16[1,8]) -> (bf16[1,8], bf16[16,8], s32[2]) {\n"
        "  %all-gather.25 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=1, "
        'dimensions={0}, frontend_attributes={chain_id="0"}, metadata={op_name="all_gather"}\n'
        "  ROOT %custom-call.1 = (bf16[1,8]{1,0}, bf16[16,8]{1,0}, s32[2]{0}) "
        'custom-call(%all-gather.25), custom_call_target="AsyncCollectiveStart"\n}\n'
        "%async_collective_fusion.56 (p: bf16[1,8]) -> bf16[16,8] {\n"
        "  %all-gather.27 = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=1, "
        'dimensions={0}, frontend_attributes={chain_id="0"}, metadata={op_name="all_gather"}\n}\n'
        "%fused_computation.65 (p: bf16[1,8]) -> (bf16[1,8], bf16[16,8], s32[2]) {\n"
        "  %all-gather.31 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=1, "
        'dimensions={0}, frontend_attributes={chain_id="1"}, metadata={op_name="all_gather"}\n}\n'
        "ENTRY %main (p: bf16[1,8]) -> bf16[16,8] {\n"
        "  %all-gather.46 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=1, "
        "dimensions={0}\n}",
        [("all-gather", 3, 3 * 256)],
    ),
    # A TPU's with what it pads, of the devices that are in a ring.
    "reduce-scatter as a fusion": (
        "%all-reduce-scatter.1 (input.1: bf16[64,32]) -> bf16[20,32] {\n"
        "  %pad.1 = bf16[80,32]{1,0:T(8,128)(2,1)} pad(%input.1, %constant.60), padding=0_16x0_0\n"
        "  %all-reduce.5 = bf16[80,32]{1,0:T(8,128)(2,1)} all-reduce(%pad.1), channel_id=3, "
        "replica_groups={{0,1,2,3}}, use_global_device_ids=true, to_apply=%region_1.0.clone\n"
        "  ROOT %dynamic-slice.5 = bf16[20,32]{1,0} dynamic-slice(%all-reduce.5, %m, %c)\n}\n"
        "ENTRY %main (p: bf16[64,32]) -> bf16[20,32] {\n"
        "  %all-reduce.7 = bf16[4]{0} all-reduce(%q), channel_id=3, to_apply=%region_1.0.clone\n"
        "  ROOT %f = bf16[20,32]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1\n}",
        [("all-reduce", 1, 8), ("reduce-scatter", 1, 2 * 80 * 32)],
    ),
    "narrow numbers": (
        "  %a = (s4[7]{0}, f8e4m3fn[3]{0}, c64[2]{0}) all-reduce(%x, %y, %z), channel_id=1",
        [("all-reduce", 1, 4 + 3 + 16)],
    ),
    "what only mentions one": (
        '  %fusion = f32[4]{0} fusion(%all-reduce.1), calls=%all-reduce, metadata={op_name="psum"}',
        [],
    ),
}


@pytest.mark.parametrize("case", PRINTED)
def test_printed_collectives_are_read(case):
    text, expected = PRINTED[case]
    assert list(aot.collectives(text)) == expected


def test_instructions_are_counted():
    text = PRINTED["repeated in fusions"][0]
    assert aot.count_instructions(text) == 5


def test_reports_survive_json(product):
    text = product.report.to_json()
    assert aot.Report.from_json(text) == product.report
    content = json.loads(text)
    assert content["memory"]["outputs"] == 4 * 64 * 16
    assert content["arithmetic_intensity"] == product.report.arithmetic_intensity
    assert "optimal_seconds" not in text


def test_unknown_numbers_stay_unknown(product):
    unknown = dataclasses.replace(
        product.report, xla_flops=None, memory=aot.Memory(), hlo_instructions=None, collectives=None
    )
    assert aot.Report.from_json(unknown.to_json()) == unknown
    assert unknown.arithmetic_intensity is None
    assert printed(aot.report_table(unknown)).count("unknown") == 10  # with the intensity
    ratios = {row.quantity: row.ratio for row in aot.diff(product.report, unknown)}
    assert ratios["optimized HLO instructions"] is None
    reduced = dataclasses.replace(unknown, collectives=(aot.Collective("all-reduce", 2, 2048),))
    differences = {row.quantity: row[1:] for row in aot.diff(unknown, reduced)}
    assert differences["collectives: all-reduce"] == (None, 2, None)


def test_a_program_that_cannot_be_read_has_unknown_collectives(monkeypatch):
    def as_text(compiled):
        raise jax.errors.JaxRuntimeError("INTERNAL: async-update should have 1 operands")

    monkeypatch.setattr(jax.stages.Compiled, "as_text", as_text)
    report = aot.compile_step(lambda x: x + 1, shaped(2)).report
    assert report.collectives is None
    assert report.hlo_instructions is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "{", "not one"),
        (lambda text: "[1, 2]", "not one"),
        (lambda text: text.replace('"parameters"', '"params"'), r"missing \['parameters'\]"),
        (lambda text: text.replace('"peak"', '"top"'), "'memory' is not as"),
    ],
)
def test_what_is_not_a_report_is_refused(product, change, message):
    with pytest.raises(ValueError, match=message):
        aot.Report.from_json(change(product.report.to_json()))


def printed(table):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_reports_are_compared(product):
    other = dataclasses.replace(
        product.report, graph_flops=3 * product.report.graph_flops,
        collectives=(aot.Collective("all-reduce", 2, 2048),),
    )  # fmt: skip
    differences = {row.quantity: row[1:] for row in aot.diff(product.report, other)}
    flops = product.report.graph_flops
    assert differences["FLOPs, on the graph"] == (flops, 3 * flops, 3)
    assert differences["collectives: all-reduce"] == (0, 2, None)
    assert differences["parameters"] == (3, 3, 1)
    text = printed(aot.diff_table(product.report, other))
    row = next(line for line in text.splitlines() if "FLOPs, on the graph" in line)
    assert row.split()[-5:] == ["65.54", "k", "196.6", "k", "3"]
    assert "2 KiB" in text


def test_a_report_is_a_table(product):
    text = printed(aot.report_table(product.report))
    for shown in ("65.54 k", "peak (sum)", "1 cpu device", "product", "4 KiB"):
        assert shown in text


def test_a_report_has_no_head_and_counts_its_devices(product):
    pair = dataclasses.replace(product.report, devices=2)
    title, _, first, *rest = map(str.strip, printed(aot.report_table(pair)).splitlines())
    assert (title, first.split()) == ("product", ["m", "64"])
    assert "compiled for" in rest[0]
    assert rest[0].endswith("2 cpu devices")


def test_the_memory_of_a_chip_stands_beside_what_is_taken_of_it(product):
    chip = dataclasses.replace(
        product.report, platform="tpu", device_kind="TPU v5 lite", devices=16,
        memory_limit=4 * product.report.memory.peak,
    )  # fmt: skip
    text = printed(aot.report_table(chip))
    assert "16 tpu devices, TPU v5 lite" in text
    peak, limit = (format_bytes(x) for x in (chip.memory.peak, chip.memory_limit))
    assert text.splitlines()[0].strip() == f"product: {peak} of {limit} on each device"
    (share,) = [line for line in text.splitlines() if "peak, of the available" in line]
    assert share.split()[-1] == "25.0%"
    assert "available" not in printed(aot.report_table(product.report))
    assert dataclasses.replace(chip, memory=aot.Memory()).memory_share is None


CACHED = """
import sys, jax, jax.numpy as jnp
from nfx import aot
from nfx._show import format_bytes
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
step = jax.jit(lambda x, n: (x + n, n + 1), donate_argnums=0)
step(jnp.ones(3), 1)                                      # before there is a cache
directory = aot.enable_compilation_cache(*sys.argv[1:])
x = jnp.arange(4.0)
for n in range(3):
    x, _ = step(x, n)
aot.compile_step(lambda x: x * 5, x)
print(directory, x.tolist(), *(
    sum(event.endswith(kind) for event in events) for kind in ("cache_hits", "cache_misses")
))
"""


def cached(*arguments, **environment):
    ours = {key: value for key, value in os.environ.items() if "CACHE" not in key}
    result = subprocess.run(
        [sys.executable, "-c", CACHED, *map(str, arguments)], capture_output=True, text=True,
        env={**ours, "XLA_FLAGS": "", **{key: str(value) for key, value in environment.items()}},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    *_, hits, misses = result.stdout.split()
    return result.stdout, int(hits), int(misses)


def test_the_second_process_compiles_nothing(tmp_path):
    first, hits, misses = cached(tmp_path / "kept")
    files = sorted(tmp_path.rglob("*-cache"))
    assert (hits, misses) == (0, len(files))  # what compile_step compiled was not kept
    assert len(files) >= 1
    second, hits, misses = cached(tmp_path / "kept")
    assert (hits, misses) == (len(files), 0)
    assert sorted(tmp_path.rglob("*-cache")) == files
    expected = f"{tmp_path / 'kept'} [3.0, 4.0, 5.0, 6.0]"
    assert first.startswith(expected)
    assert second.startswith(expected)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NFX_CACHE_DIR": "a", "JAX_COMPILATION_CACHE_DIR": "b"}, "a/compilation"),
        ({"JAX_COMPILATION_CACHE_DIR": "b", "XDG_CACHE_HOME": "c"}, "b"),
        ({"XDG_CACHE_HOME": "c", "HOME": "d"}, "c/nfx/compilation"),
        ({"HOME": "d"}, "d/.cache/nfx/compilation"),
    ],
)
def test_where_compiled_programs_are_kept(environment, expected, tmp_path, monkeypatch):
    for name in ("NFX_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    theirs = environment.get("JAX_COMPILATION_CACHE_DIR")
    with fresh_cache_settings(theirs and str(tmp_path / theirs)):
        assert aot.enable_compilation_cache() == tmp_path / expected
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / expected)
        kept = jax.config.jax_persistent_cache_min_compile_time_secs
        assert kept == (1.0 if expected == "b" else 0)


@contextlib.contextmanager
def fresh_cache_settings(directory=None):
    """JAX's settings of its cache as they are when it starts, and afterwards as they were."""
    fresh = {
        "jax_compilation_cache_dir": directory,
        "jax_persistent_cache_min_compile_time_secs": 1.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in fresh}
    try:
        for name, value in fresh.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_a_directory_that_cannot_be_written_into_is_a_warning():
    with fresh_cache_settings():
        with pytest.warns(UserWarning, match="Cannot keep compiled programs in"):
            assert aot.enable_compilation_cache("/dev/null/cache") is None
        assert jax.config.jax_compilation_cache_dir is None


def test_multiply_accumulates_in_shard_map_count_on_every_device():
    mesh = make_mesh({"data": 4, "model": 2})
    step = jax.shard_map(
        lambda a, b: a @ b, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data")
    )
    # Over "model" both devices compute the same.
    assert aot.count_macs(step, shaped(8, 3), shaped(3, 5)) == 2 * 8 * 3 * 5
