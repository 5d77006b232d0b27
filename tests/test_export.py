"""Artifacts: the same numbers as the model, anywhere, and nothing from what is not whole."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import nfx
from nfx.aot import export_classifier, ExportOptions
from nfx.cli import main
from nfx.models import initial_statistics
from nfx.recipes import get_recipe
from nfx.serving import (
    ArtifactError,
    FORMAT,
    ImageFormat,
    load_artifact,
    predict_images,
    save_artifact,
)
from nfx.train import RunDirectory
from tests.disk import full_disk
from tests.flags import QUICK_COMPILES


# One worker runs them all: they share artifacts.
pytestmark = pytest.mark.xdist_group("export")

ROOT = Path(__file__).parents[1]
MODELS = ["nfnet_micro", "timm/test_nfnet", "se_resnext_micro"]
CLASSES = ("ant", "bee", "cat", "dog", "elk")
IMAGES = ImageFormat(
    size=24,
    channels=3,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    crop=0.9,
    view="official_squash",
)
FILES = ["program.bin", "weights.safetensors", "manifest.json"]


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *IMAGES.shape), np.uint8)


def build(name):
    """A model and its state, none of whose leaves is zeros or ones: so none goes unseen."""

    def shapes():
        model = nfx.create_model(name, num_classes=len(CLASSES), key=jax.random.key(0))
        return model, initial_statistics(model)

    rng = np.random.default_rng(1)

    def draw(leaf):
        if leaf.ndim < 2:
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        fan_in = np.prod(leaf.shape[:-1])
        return jnp.asarray(rng.normal(0, fan_in**-0.5, leaf.shape), jnp.float32)

    return jax.tree.map(draw, jax.eval_shape(shapes))


def reference(model, statistics, images):
    """The logits as the library's user would compute them."""
    mean, std = np.float32(IMAGES.mean), np.float32(IMAGES.std)
    x = jnp.asarray((images.astype(np.float32) / 255 - mean) / std)
    run = jax.vmap(model) if statistics is None else lambda x: model(x, statistics)[0]
    return np.asarray(jax.jit(run)(x))


def export(model, statistics=None, name="a model", **options):
    return export_classifier(
        model, name=name, images=IMAGES, class_names=CLASSES, statistics=statistics,
        options=ExportOptions(**options),
    )  # fmt: skip


def subprocess_python(code, *arguments, **options):
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILES}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, env=environment, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def nano():
    return build("nfnet_nano")


@pytest.fixture(scope="module")
def artifact(nano):
    return export(*nano, name="nfnet_nano")


@pytest.fixture(scope="module")
def saved(artifact, tmp_path_factory):
    return save_artifact(artifact, tmp_path_factory.mktemp("artifacts") / "nano.nfx")


@pytest.fixture
def copy(artifact, tmp_path):
    return save_artifact(artifact, tmp_path / "copy.nfx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (30, 40 + index, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_models_at_any_batch(name, tmp_path):
    model, statistics = build(name)
    path = save_artifact(export(model, statistics), tmp_path / "model.nfx")
    loaded = load_artifact(path)
    images = pixels(8)
    expected = reference(model, statistics, images)
    scale = np.abs(expected).max()
    assert np.ptp(expected, axis=0).min() > 1e-3 * scale  # images are not all the same to it
    for count in (1, 3, 8):
        found = np.asarray(loaded.logits(images[:count]))
        assert found.dtype == np.float32
        assert found.shape == (count, len(CLASSES))
        np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-5 * scale)


def test_weights_are_standardized_before_and_not_in_the_program(artifact):
    assert "rsqrt" not in artifact.program.mlir_module()
    assert "rsqrt" in export(*build("se_resnext_micro")).program.mlir_module()


def test_weights_baked_in_are_the_weights_beside(nano, artifact, tmp_path):
    path = save_artifact(export(*nano, weights="baked"), tmp_path / "baked.nfx")
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "program.bin"]
    count = nfx._tree.parameter_count(nano[0])
    assert (path / "program.bin").stat().st_size > 4 * count // 2  # standardized gains are gone
    images = pixels(3)
    baked, separate = load_artifact(path).logits(images), artifact.logits(images)
    np.testing.assert_allclose(baked, separate, rtol=1e-5, atol=1e-5)


def test_one_program_serves_platforms_that_are_not_here(saved):
    assert {device.platform for device in jax.devices()} == {"cpu"}
    loaded = load_artifact(saved)
    assert loaded.program.platforms == loaded.manifest.platforms == ("cpu", "tpu", "cuda")
    text = loaded.program.mlir_module()
    assert "stablehlo.convolution" in text


def test_the_manifest_says_what_the_artifact_is(saved, nano):
    document = json.loads((saved / "manifest.json").read_text())
    assert document["format"] == FORMAT == 2
    assert document["images"] == {**dataclasses.asdict(IMAGES), "mean": [0.4, 0.5, 0.6],
                                  "std": [0.2, 0.25, 0.3], "resampling": "bicubic",
                                  "dtype": "uint8"}  # fmt: skip
    expected = {
        "model": "nfnet_nano", "class_names": list(CLASSES), "platforms": ["cpu", "tpu", "cuda"],
        "batch_size": "symbolic", "dtype": "float32", "weights": "separate",
        "parameters": nfx._tree.parameter_count(nano[0]), "jax": jax.__version__,
        "nfx": nfx.__version__,
    }  # fmt: skip
    assert {name: document[name] for name in expected} == expected
    assert sorted(document["files"]) == ["program.bin", "weights.safetensors"]
    assert load_artifact(saved).manifest.images == IMAGES


def test_a_batch_of_its_own_is_filled_up(nano, artifact, folder, tmp_path):
    fixed = export(*nano, batch_size=2)
    fixed = load_artifact(save_artifact(fixed, tmp_path / "fixed.nfx"))
    for count in (2, 3):
        images = pixels(count)
        found = np.asarray(fixed.logits(images))
        np.testing.assert_allclose(found, artifact.logits(images), rtol=1e-5, atol=1e-5)
    ours, theirs = (list(predict_images(one, [folder])) for one in (fixed, artifact))
    assert len(ours) == 3
    assert [p.classes[0].name for p in ours] == [p.classes[0].name for p in theirs]


def test_bfloat16_is_computed_in_and_stored(nano, artifact, tmp_path):
    path = save_artifact(export(*nano, dtype="bfloat16"), tmp_path / "half.nfx")
    loaded = load_artifact(path)
    assert {str(leaf.dtype) for leaf in loaded.weights.values()} == {"bfloat16"}
    images = pixels(3)
    found = np.asarray(loaded.logits(images))
    assert found.dtype == np.float32
    exact = np.asarray(artifact.logits(images))
    scale = np.abs(exact).max()
    assert 1e-4 * scale < np.abs(found - exact).max() < 0.05 * scale


def test_batch_statistics_stay_wide(tmp_path):
    model, statistics = build("se_resnext_micro")
    half = export(model, statistics, dtype="bfloat16")
    assert half.weights["statistics/stem/0/mean"].dtype == np.float32
    expected = reference(model, statistics, pixels(4))
    close = 0.05 * np.abs(expected).max()
    np.testing.assert_allclose(half.logits(pixels(4)), expected, atol=close)


ELSEWHERE = """
import sys
import numpy as np
from nfx.cli import main
from nfx.serving import load_artifact

path, images, output, folder = sys.argv[1:]
np.save(output, load_artifact(path).logits(np.load(images)))
assert main(["predict", path, folder, "--json", "--top", "2", "--batch-size", "2"]) == 0
unwanted = {"equinox", "optax", "nfx.models", "nfx.nn", "nfx.recipes", "nfx.aot"} & set(sys.modules)
assert not unwanted, unwanted
"""


def test_another_process_needs_no_code_of_models(saved, artifact, folder, tmp_path):
    np.save(tmp_path / "images.npy", pixels(3))
    places = [saved, tmp_path / "images.npy", tmp_path / "logits.npy", folder]
    result = subprocess_python(ELSEWHERE, *places)
    assert result.returncode == 0, result.stderr
    expected = np.asarray(artifact.logits(pixels(3)))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-6, atol=1e-6)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    here = list(predict_images(artifact, [folder], top=2))
    assert [line["file"] for line in lines] == [str(folder / f"{i}.png") for i in range(3)]
    for line, prediction in zip(lines, here, strict=True):
        assert [score["name"] for score in line["classes"]] == [c.name for c in prediction.classes]


def test_the_page_shows_how_to_serve_without_nfx(saved, artifact, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "safetensors" in block]
    assert len(block.splitlines()) <= 16
    (tmp_path / "nano.nfx").symlink_to(saved)
    np.save(tmp_path / "images.npy", pixels(3))
    end = "import sys\nassert 'nfx' not in sys.modules\njnp.save('logits.npy', logits)\n"
    code = "import sys, jax.numpy as jnp\nsys.modules['equinox'] = None\n" + block + end
    code = code.replace("np.zeros((2, 24, 24, 3), np.uint8)", "np.load('images.npy')")
    assert "images.npy" in code
    result = subprocess_python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    expected = artifact.logits(pixels(3))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    message = "manifest.json is damaged" if name == FILES[2] else rf"{name} has .* bytes and not"
    with pytest.raises(ArtifactError, match=message):
        load_artifact(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused(copy, name):
    content = bytearray((copy / name).read_bytes())
    for position in np.linspace(0, len(content) - 2, 30, dtype=int):
        content[position] ^= 1
        (copy / name).write_bytes(content)
        message = "manifest.json|of format" if name == FILES[2] else rf"{name} is damaged"
        with pytest.raises(ArtifactError, match=message):
            load_artifact(copy)
        content[position] ^= 1
    (copy / name).write_bytes(content)
    load_artifact(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=f"has no {name}"):
        load_artifact(copy)


def edit(path, **changes):
    document = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**document, **changes}))


def test_an_edited_manifest_is_refused_and_white_space_is_not(copy):
    edit(copy)
    load_artifact(copy)
    edit(copy, class_names=["ant", "bee", "cow", "dog", "elk"])
    with pytest.raises(ArtifactError, match="damaged or edited"):
        load_artifact(copy)


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_is_named(copy, version):
    edit(copy, format=version, nfx="9.0")
    with pytest.raises(ArtifactError, match=rf"of format {version}, and this nfx reads 2.*9\.0"):
        load_artifact(copy)


def test_images_of_another_kind_are_refused(copy, monkeypatch):
    monkeypatch.setattr("nfx.serving._manifest.json_digest", lambda document: None)
    document = json.loads((copy / "manifest.json").read_text())
    edit(copy, images={**document["images"], "resampling": "lanczos"}, sha256=None)
    with pytest.raises(
        ArtifactError, match="of resampling 'lanczos', and this nfx knows 'bicubic'"
    ):
        load_artifact(copy)


def test_a_program_for_other_platforms_is_refused(nano, tmp_path):
    path = save_artifact(export(*nano, platforms=("tpu",)), tmp_path / "tpu.nfx")
    with pytest.raises(ArtifactError, match=r"made for tpu, and JAX runs on cpu.*--platforms tpu"):
        load_artifact(path)


def test_a_program_of_another_calling_convention_is_refused(artifact, tmp_path):
    manifest = dataclasses.replace(artifact.manifest, calling_convention=99, jax="9.9")
    path = save_artifact(dataclasses.replace(artifact, manifest=manifest), tmp_path / "far.nfx")
    with pytest.raises(ArtifactError, match=r"jax 9\.9 wrote its program.* 99"):
        load_artifact(path)


DIES = """
import os, signal, sys
from nfx.serving import _files, load_artifact, save_artifact
from tests.flags import QUICK_COMPILES

source, destination, when = sys.argv[1:]
artifact = load_artifact(source)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if when == "writing":
    _files._safetensors = lambda: type("", (), {"save": die})
else:
    _files.Path.rename = die
save_artifact(artifact, destination)
"""


@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_a_killed_save_leaves_nothing_under_the_name(saved, tmp_path, when):
    destination = tmp_path / "new.nfx"
    result = subprocess_python(DIES, saved, destination, when)
    assert result.returncode == -9, result.stderr
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.new\.nfx\.\w+\.tmp", left.name)
    with pytest.raises(ArtifactError, match="no such directory"):
        load_artifact(destination)
    if when == "writing":
        with pytest.raises(ArtifactError, match="not a whole one"):
            load_artifact(left)
    load_artifact(save_artifact(load_artifact(saved), destination))


def test_a_save_that_fails_cleans_up(artifact, saved, tmp_path):
    program, weights = ((saved / name).stat().st_size for name in FILES[:2])
    assert program < weights
    with full_disk(program), pytest.raises(ArtifactError, match="File too large"):
        save_artifact(artifact, tmp_path / "full.nfx")
    assert not list(tmp_path.iterdir())


def test_artifacts_replace_nothing(artifact, copy, tmp_path):
    for path, message in (
        (copy, "exists already"),
        (tmp_path / "model", "must end in .nfx"),
        (tmp_path / "none/model.nfx", "No directory"),
    ):
        with pytest.raises(ArtifactError, match=message):
            save_artifact(artifact, path)


@pytest.mark.parametrize("package", ["flatbuffers", "safetensors"])
def test_missing_packages_are_named(copy, monkeypatch, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ArtifactError, match=rf"{package}: pip install 'nfx\[export\]'"):
        load_artifact(copy)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pixels(2).astype(np.float32), "got float32"),
        (pixels(2)[0], r"got uint8 of shape \(24, 24, 3\)"),
        (pixels(2)[:, :20], r"shape \(n, 24, 24, 3\)"),
        (pixels(2)[:0], "There are no images"),
    ],
)
def test_other_images_are_refused(artifact, images, message):
    with pytest.raises(ValueError, match=message):
        artifact.logits(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(platforms=("cpu", "gpu")), "no platform 'gpu'"),
        (dict(platforms=()), "one or more"),
        (dict(platforms=("cpu", "cpu")), "each once"),
        (dict(batch_size=0), "batch_size=0 must be at least 1"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        ExportOptions(**options)


def test_every_class_has_a_name_before_anything_is_lowered(nano, monkeypatch):
    monkeypatch.setattr("nfx.aot._export._export_program", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="There are 1 names, and the model has 5 classes"):
        export_classifier(nano[0], name="nano", images=IMAGES, class_names=["one"])


def test_a_folded_model_is_exported_as_what_it_was_folded_from(nano, artifact):
    weights = export(jax.jit(nfx.graph.fold_weight_standardization)(nano[0])).weights
    assert weights.keys() == artifact.weights.keys()
    for name, array in artifact.weights.items():
        np.testing.assert_array_equal(weights[name], array)


def test_a_state_that_is_missing_is_said(monkeypatch):
    monkeypatch.setattr("nfx.aot._export._export_program", lambda *_: 1 / 0)
    model = jax.eval_shape(lambda: build("se_resnext_micro")[0])
    with pytest.raises(ValueError, match=r"has a state: start with nfx\.models"):
        export(model)


def predictions(capsys, *arguments):
    assert main(["predict", *map(str, arguments), "--json", "--top", "10"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [[score["name"] for score in line["classes"]] for line in lines]
    return names, [[score["probability"] for score in line["classes"]] for line in lines]


@pytest.mark.slow  # it trains, for a few large steps on one device, after which classes differ
def test_an_exported_run_predicts_what_the_run_does(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [
        "--model", "nfnet_nano", "--steps", "3", "--batch-size", "16", "--warmup-steps", "0",
        "--learning-rate", "10", "--ema", "0.5", "--clipping", "None",
    ]  # fmt: skip
    command = "import sys; from nfx.cli import main; sys.exit(main(sys.argv[1:]))"
    result = subprocess_python(command, "train", "--run-dir", "run", *options)
    assert result.returncode == 0, result.stderr
    assert main(["export", "run"]) == 0
    assert "nfx predict run.nfx IMAGES" in capsys.readouterr().out
    names, probabilities = predictions(capsys, "run", folder)
    assert len(names) == 3
    found_names, found = predictions(capsys, "run.nfx", folder, "--batch-size", "2")
    assert found_names == names
    np.testing.assert_allclose(found, probabilities, rtol=0, atol=1e-5)
    assert np.std(probabilities) > 1e-3


def test_random_weights_are_asked_for(tmp_path, folder, capsys):
    output = tmp_path / "random.nfx"
    arguments = ["export", "timm/test_nfnet", "--output", str(output), "--image-size", "24"]
    assert main(arguments) == 1
    assert "'timm/test_nfnet' is the name of a model and has no weights" in capsys.readouterr().err
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES))
    options = ["--class-names", str(names), "--platforms", "cpu", "--batch-size", "2"]
    assert main([*arguments, "--random", *options]) == 0
    manifest = load_artifact(output).manifest
    assert manifest.class_names == CLASSES
    assert manifest.platforms == ("cpu",)
    assert manifest.batch_size == 2
    assert manifest.images.size == 24
    assert manifest.images.crop == 0.95  # what the model's card says
    capsys.readouterr()
    assert len(predictions(capsys, output, folder)[0]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "{run}", "--output", "{saved}"], "exists already"),
        (["export", "{run}", "--platforms", "gpu"], "no platform 'gpu'"),
        (["export", "{run}", "--class-names", "{names}"], "knows the names of its classes"),
        (["export", "{saved}/none"], "nor the name of weights"),
        (["predict", "{saved}", "{folder}", "--image-size", "32"], "leave --image-size out"),
        (["predict", "{saved}", "{folder}", "--class-names", "{names}"], "leave --class-names out"),
        (["predict", "{saved}", "{folder}", "--top", "0"], "top=0 must be at least 1"),
        (["predict", "{saved}", "{names}"], "Cannot read"),
        (["predict", "{names}.nfx", "{folder}"], "no such directory"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    saved, folder, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names").write_text("one\n")
    run = tmp_path / "run"
    config = {"recipe": dataclasses.asdict(get_recipe("sample")), "class_names": list(CLASSES)}
    RunDirectory.create(run, config)
    places = dict(run=run, saved=saved, folder=folder, names=tmp_path / "names")
    assert main([argument.format(**places) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
