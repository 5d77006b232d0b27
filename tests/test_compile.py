"""`nfx compile`: the programs it compiles, and what it refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfx
from nfx.aot import count_macs, model_macs
from nfx.cli import main
from nfx.data import Batch
from nfx.recipes import build_parts, compile_model, CompileOptions, get_recipe
from nfx.recipes._compile import _parts, _recipe
from nfx.sharding import make_mesh, place_batch
from nfx.train import abstract_state, make_train_step
from tests.reference import create_abstract


# One worker runs them all: they share what is compiled.
pytestmark = pytest.mark.xdist_group("compile")

NANO = ["compile", "nfnet_nano", "--image-size", "16", "--num-classes", "10", "--mesh", "data=8"]


def compiled(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    output = capsys.readouterr()
    return json.loads(output.out), output.err


@pytest.fixture(scope="module")
def sample_step():
    """The training step of the sample's recipe with a smaller network, and what was alive."""
    # What others of this process hold, so that it stays alive and is told apart.
    before, alive = jax.live_arrays(), []
    options = CompileOptions(recipe="sample", image_size=28, mesh="data=8")
    report = compile_model(
        "nfnet_nano", options, progress=lambda stage: alive.append(jax.live_arrays()) or nothing()
    ).report
    known = set(map(id, before))
    return report, [[array for array in arrays if id(array) not in known] for arrays in alive]


def nothing():
    return jax.named_scope("nothing")


def test_the_step_is_the_one_that_training_runs(sample_step):
    report, _ = sample_step
    parts = build_parts(get_recipe("sample"))
    build = lambda: nfx.create_model(
        "nfnet_nano", num_classes=10, in_channels=1, key=jax.random.key(0), drop_rate=0.2,
        stochastic_depth_rate=0.1,
    )  # fmt: skip
    mesh = make_mesh({"data": 8})
    step = make_train_step(parts.optimizer, parts.preprocessing, mesh, parts.observe)
    batch = place_batch(Batch(np.zeros((32, 28, 28, 1), np.uint8), np.zeros(32, np.int32)), mesh)
    lowered = step.lower(abstract_state(build, parts.optimizer, mesh), batch, parts.key)
    assert report.stablehlo_bytes == len(lowered.as_text())
    assert report.settings == {
        "model": "nfnet_nano", "program": "train", "recipe": "sample",
        "batch_size": 32, "image_size": 28, "num_classes": 10, "precision": "float32",
        "microbatches": 1, "gather_dtype": "float32",
        "reduce_dtype": "float32", "mesh": "data=8",
    }  # fmt: skip


def test_the_step_has_the_costs_of_data_parallel_training(sample_step):
    report, _ = sample_step
    model = create_abstract("nfnet_nano", num_classes=10, in_channels=1)
    assert report.parameters == sum(leaf.size for leaf in jax.tree.leaves(model))
    parameters = 4 * report.parameters
    # The gradient of each parameter once, and the loss.
    ((kind, _, size),) = report.collectives
    assert kind == "all-reduce"
    assert size == parameters + 4
    # Parameters, momentum and average, replicated and donated; four images.
    assert 3 * parameters + 4 * 28 * 28 <= report.memory.arguments < 3 * parameters * 1.1
    assert 3 * parameters <= report.memory.aliased <= report.memory.arguments
    assert report.memory.peak >= report.memory.arguments + report.memory.temporaries
    forward = 2 * 32 * model_macs(model, 28)
    assert 2.5 * forward < report.graph_flops < 4 * forward


def test_nothing_is_allocated_but_keys(sample_step):
    _, alive = sample_step
    assert len(alive) == 3
    assert all(array.size <= 2 for arrays in alive for array in arrays)


@pytest.fixture(scope="module")
def forward(tmp_path_factory):
    report = compile_model(
        "nfnet_nano",
        CompileOptions(program="forward", image_size=16, num_classes=10, mesh="data=8"),
    ).report
    path = tmp_path_factory.mktemp("reports") / "forward.json"
    path.write_text(report.to_json())
    return report, path


def test_inference_costs_what_the_model_costs(forward):
    report, _ = forward
    assert report.name == "forward"
    model = create_abstract("nfnet_nano", num_classes=10)
    assert report.graph_flops == 2 * 32 * model_macs(model, 16)
    assert report.memory.arguments == 4 * report.parameters + 4 * 16 * 16 * 3
    assert report.memory.outputs == 4 * 10 * 4
    assert report.collectives == ()
    assert report.devices == 8


def test_the_command_prints_a_table_and_its_progress(capsys, forward):
    _, path = forward
    arguments = [*NANO, "--program", "forward", "--batch-size", "64", "--compare", str(path)]
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert [line.split()[0] for line in output.err.splitlines()] == [
        "Tracing", "done", "Lowering", "done", "Compiling", "done",
    ]  # fmt: skip
    assert "8 cpu devices" in output.out
    _, compared = [line for line in output.out.splitlines() if "FLOPs, on the graph" in line]
    assert compared.split()[-1] == "2"


def test_a_batch_normalized_model_is_compiled(capsys):
    report, error = compiled(
        capsys, "compile", "se_resnext_micro", "--program", "forward", "--precision", "mixed",
        "--image-size", "16", "--mesh", "data=8",
    )  # fmt: skip
    assert report["settings"]["precision"] == "mixed"
    assert report["settings"]["num_classes"] == 1000
    assert "Compiling" in error


def test_a_recipe_needs_no_images(capsys, monkeypatch):
    monkeypatch.setattr(
        "nfx.recipes._images.open_sources", lambda *_, **__: pytest.fail("read images")
    )
    report, _ = compiled(capsys, "compile", "--recipe", "sample", "--program", "forward")
    settings = report["settings"]
    assert (settings["model"], settings["num_classes"]) == ("nfnet_micro", 10)
    assert (settings["batch_size"], settings["image_size"]) == (32, 28)


def test_the_options_of_a_stack_are_passed_on(capsys, monkeypatch):
    def stack_blocks(model, **how):
        raise ValueError(f"asked for {how}")

    monkeypatch.setattr(nfx.graph, "stack_blocks", stack_blocks, raising=False)
    error = refused(capsys, *NANO, "--stack", "--remat", "convs", "--unroll", "2")
    assert "asked for {'remat': 'convs', 'unroll': 2}" in error


def test_a_stack_is_a_program_of_the_same_cost(capsys):
    arguments = ["--program", "forward", "--image-size", "64", "--mesh", "data=8"]
    plain, _ = compiled(capsys, "compile", "nfnet_micro", *arguments)
    stacked, _ = compiled(capsys, "compile", "nfnet_micro", *arguments, "--stack")
    assert stacked["graph_flops"] == plain["graph_flops"]
    assert stacked["parameters"] == plain["parameters"]
    assert stacked["settings"]["stack"]


def test_rematerialized_blocks_compute_more():
    def gradient_macs(remat):
        options = CompileOptions(stack=True, remat=remat, image_size=16, num_classes=10)
        model = jax.eval_shape(_parts(_recipe("nfnet_micro", options), options).build_model)
        loss = lambda model, image: jnp.sum(model(image))
        return count_macs(jax.grad(loss), model, jax.ShapeDtypeStruct((16, 16, 3), jnp.float32))

    assert gradient_macs("full") > 1.02 * gradient_macs("none")  # two of seven blocks are stacked


def refused(capsys, *arguments):
    assert main(list(arguments)) == 1
    error = capsys.readouterr().err
    assert error.startswith("nfx: error: ")
    return error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Compile what? Give a model"),
        (["nfnet_f9"], "Unknown model 'nfnet_f9'. Did you mean 'nfnet_f"),
        (["--recipe", "sampel"], "Unknown recipe 'sampel'. Did you mean 'sample'?"),
        (["nfnet_nano", "--mesh", "data=3"], "needs 3 devices"),
        (["nfnet_nano", "--batch-size", "12"], "batch of 12 images does not divide into 8 parts"),
        (["nfnet_nano", "--batch-size", "0"], "batch_size=0 must be at least 1"),
        (["nfnet_nano", "--remat", "full"], "needs a stack"),
        (["nfnet_nano", "--unroll", "2"], "needs a stack"),
        (["nfnet_nano", "--batch-size", "32", "--microbatches", "3"], "must divide the 4 images"),
        (["se_resnext_micro", "--microbatches", "2"], "1 for a batch-normalized model"),
        (["nfnet_nano", "--program", "forward", "--microbatches", "2"], "of the training step"),
        (["nfnet_nano", "--compare", "/nowhere.json"], "Cannot read a report from '/nowhere.json'"),
    ],
)
def test_what_cannot_be_compiled_is_refused(arguments, message, capsys):
    assert message in refused(capsys, "compile", *arguments)


def test_a_comparison_with_something_else_is_refused_at_once(tmp_path, capsys):
    for content in ("{}", "compile", "null"):
        (tmp_path / "other.json").write_text(content)
        error = refused(capsys, *NANO, "--compare", str(tmp_path / "other.json"))
        assert "Cannot read a report" in error
        assert "Tracing" not in error


@pytest.mark.parametrize(
    ("command", "switch", "expected"),
    [
        ("train", "on", 1), ("evaluate", "on", 1), ("predict", "on", 1), ("train", None, 1),
        ("compile", "on", 0), ("models", "on", 0), ("train", "off", 0), ("evaluate", "off", 0),
    ],
)  # fmt: skip
def test_commands_that_run_programs_keep_them(command, switch, expected, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr("nfx._cache.enable_compilation_cache", lambda: calls.append(1))
    if switch is None:
        monkeypatch.delenv("NFX_COMPILATION_CACHE")
    else:
        monkeypatch.setenv("NFX_COMPILATION_CACHE", switch)
    wrong = {
        "train": ["--recipe", "none"], "evaluate": ["/nowhere"], "compile": [],
        "predict": ["/nowhere", "/nowhere.jpg"], "models": ["nothing"],
    }  # fmt: skip
    refused(capsys, command, *wrong[command])
    assert len(calls) == expected


def test_the_switch_of_the_cache_is_on_or_off(capsys, monkeypatch):
    monkeypatch.setenv("NFX_COMPILATION_CACHE", "0")
    assert "NFX_COMPILATION_CACHE='0' must be 'on' or 'off'" in refused(capsys, "train")
    assert main(["--help"]) == 0
    assert "NFX_COMPILATION_CACHE=off" in capsys.readouterr().out
