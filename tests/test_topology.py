"""Compiling for TPUs that are not there."""

import importlib
import importlib.util
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from nfx import aot
from nfx.aot import CHIPS, DeviceMemoryError, topology_devices, TopologyError
from nfx.cli import main
from nfx.recipes import compile_model, CompileOptions
from nfx.sharding import make_mesh


# One worker runs them all: libtpu takes seconds to load, and they share what is compiled.
pytestmark = pytest.mark.xdist_group("topology")


@pytest.fixture(scope="module", autouse=True)
def no_flags_of_cpus():
    """The CPUs have read them; libtpu ends the process over one that it does not know."""
    jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS")
        yield


@pytest.fixture(scope="module")
def libtpu():
    pytest.importorskip("libtpu", reason="compiles for TPUs: pip install 'nfx[tpu]'")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("v5e-16", "'v5e:4x4'"), ("v5litepod-16", "'v5e:4x4'"), ("v5p-16", "'v5p:2x2x2'"),
        ("v4-8", "'v4:2x2x1'"), ("v3-32", "'v3:4x4'"),
        ("", None), ("v5e", None), ("v5e:", None), ("v5e:3x3", None), ("v5e:2x2x1", None),
        ("v5e_4x4", None), ("v9:4x4", None),
    ],
)  # fmt: skip
def test_other_names_are_refused_with_those_that_are_meant(name, meant):
    with pytest.raises(TopologyError) as caught:
        topology_devices(name)
    message = str(caught.value)
    assert f"There is no topology {name!r}." in message
    assert (f"Did you mean {meant}?" in message) if meant else ("Did you mean" not in message)
    assert "\n  v5e: 1x1, 2x2, 2x4, 4x4, " in message


def test_without_its_compiler_there_is_no_topology(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)  # JAX sets it where it finds libtpu
    assert main(["compile", "nfnet_nano", "--topology", "v5e:2x2"]) == 1
    assert "pip install 'nfx[tpu]'" in capsys.readouterr().err


# As libtpu 0.0.52 wrote it, of a training step.
OUT_OF_MEMORY = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (46.25G) exceeds available HBM (15.75G). HLO module: "
    "jit_train_step.\nSee https://openxla.org/xla/errors/error_1000 for more details."
)


@pytest.fixture
def compile_refused(monkeypatch):
    """Compiles something with a compiler that raises an error with a message."""

    def refuse(message):
        def compile(lowered):
            raise jax.errors.JaxRuntimeError(message)

        monkeypatch.setattr(jax.stages.Lowered, "compile", compile)
        aot.compile_step(lambda x: x + 1, jax.ShapeDtypeStruct((2,), jnp.float32))

    return refuse


@pytest.mark.parametrize(("used", "size"), [("46.25G", 46.25 * 2**30), ("900.5M", 900.5 * 2**20)])
def test_too_much_memory_is_an_error_that_says_what_to_change(used, size, compile_refused):
    with pytest.raises(DeviceMemoryError) as caught:
        compile_refused(OUT_OF_MEMORY.replace("46.25G", used))
    assert caught.value.used == size
    assert caught.value.available == 15.75 * 2**30
    assert f"needs {used[:-1]} {used[-1]}iB" in str(caught.value)
    for advice in ("15.75 GiB", "smaller batch", "fsdp=N", "--stack --remat full", "bfloat16"):
        assert advice in str(caught.value)
    assert "E1000" in str(caught.value.__cause__)


def test_other_errors_of_compilers_stay_as_they_are(compile_refused):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: something else"):
        compile_refused("INTERNAL: something else")


def test_the_command_says_that_memory_is_short(capsys, monkeypatch):
    def compile_model(*args, **kwargs):
        raise DeviceMemoryError(2**35, 2**34)

    monkeypatch.setattr("nfx.cli._compile.compile_model", compile_model)
    assert main(["compile", "nfnet_nano"]) == 1
    assert "nfx: error: The program needs 32 GiB" in capsys.readouterr().err


@pytest.mark.parametrize("kind", CHIPS)
def test_a_row_is_what_the_compiler_says(kind, libtpu):
    chip = CHIPS[kind]
    for shape in chip.slices:
        devices = topology_devices(f"{kind}:{shape}")
        assert len(devices) == chip.devices * math.prod(map(int, shape.split("x")))
        assert {(device.platform, device.device_kind) for device in devices} == {("tpu", chip.kind)}
    devices = topology_devices(f"{kind}:{chip.slices[0]}")
    sharding = NamedSharding(make_mesh({"data": len(devices)}, devices), P())
    too_large = jax.ShapeDtypeStruct((2**38,), jnp.int8, sharding=sharding)
    with pytest.raises(DeviceMemoryError) as caught:
        aot.compile_step(lambda x: x + 1, too_large)
    assert caught.value.available == aot.memory_limit(chip.kind) == int(chip.gibibytes * 2**30)
    assert caught.value.used >= 2**38


def test_the_process_stays_as_it_was(libtpu):
    before = dict(os.environ)
    topology_devices("v5e:2x2")
    assert dict(os.environ) == before
    assert jax.default_backend() == "cpu"
    assert aot.memory_limit("cpu") is None


@pytest.fixture(scope="module")
def step(libtpu):
    """The training step of the sample's recipe with a smaller network, for four chips."""
    options = CompileOptions(recipe="sample", topology="v5e:2x2")
    return compile_model("nfnet_nano", options).report


@pytest.mark.slow
def test_a_training_step_is_compiled_for_a_slice(step):
    assert (step.platform, step.device_kind, step.devices) == ("tpu", "TPU v5 lite", 4)
    assert step.settings["topology"] == "v5e:2x2"
    assert step.settings["mesh"] == "data=4"
    assert step.settings["libtpu"] == aot.libtpu_version()
    assert step.xla_flops > 0
    assert jax.default_backend() == "cpu"


def test_it_holds_the_state_and_little_else(step):
    parameters = 4 * step.parameters
    # Parameters, momentum and average, replicated and donated. A TPU's arrays come in tiles.
    assert 3 * parameters < step.memory.aliased <= step.memory.arguments < 3 * 3 * parameters
    assert step.memory_limit == 15.75 * 2**30
    assert step.memory.arguments < step.memory.peak < 0.01 * step.memory_limit
    assert step.memory_share == step.memory.peak / step.memory_limit


@pytest.mark.long
def test_it_reduces_each_gradient_once(step):
    # And the loss.
    assert step.collectives == (("all-reduce", 1, 4 * (step.parameters + 1)),)


def test_a_row_of_the_benchmark_is_made_of_its_report(step, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    benchmark = importlib.import_module("topology")
    found = dict(zip(benchmark.HEADER, benchmark.row("the step", step), strict=True))
    assert (found["NFNet"], found["slice"]) == ("the step", "v5e:2x2, data=4")
    assert found["batch"] == "32 @ 28"


def test_its_report_shows_the_memory_of_the_chip(step):
    assert aot.Report.from_json(step.to_json()) == step
    rows = {row.quantity: row.after for row in aot.diff(step, step)}
    assert rows["memory per device: available"] == step.memory_limit
    assert rows["memory per device: peak, of the available"] == step.memory_share
