"""`nfx predict` and `nfx models`, as typed."""

import json
import math

import jax
import numpy as np
import pytest
from PIL import Image

import nfx
from nfx.augment import normalize
from nfx.cli import main
from nfx.data import CentreView, open_sources
from nfx.models import model_sizes
from nfx.recipes import load_classifier, predict, save_classifier
from nfx.recipes._predict import logits_on
from nfx.serving import ImageFormat, name_images
from nfx.sharding import make_mesh
from nfx.weights import to_timm, write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    model = jax.jit(
        lambda: nfx.create_model("timm/test_nfnet", num_classes=4, key=jax.random.key(0))
    )()
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    write_weights(path, to_timm(model))
    return path, model


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for index, name in enumerate(["a.png", "b.jpg", "below/c.png"]):
        pixels = rng.integers(0, 256, (40 + index, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def test_weights_name_what_they_see(weights, images, capsys):
    path, model = weights
    arguments = ["predict", str(path), str(images), "--model", "timm/test_nfnet", "--json"]
    assert main([*arguments, "--top", "2", "--batch-size", "2", "--image-size", "32"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [
        str(images / name) for name in ("a.png", "b.jpg", "below/c.png")
    ]
    view = CentreView(32, 3, "timm", 0.95)  # what the model's card says
    files = [images / name for name in ("a.png", "b.jpg", "below/c.png")]
    pixels = np.stack([view(file.read_bytes(), np.random.default_rng(0)) for file in files])
    half = (0.5, 0.5, 0.5)
    run = jax.jit(lambda m, x: jax.nn.softmax(jax.vmap(m)(normalize(x, half, half))))
    expected = np.asarray(run(model, pixels))
    for line, probabilities in zip(lines, expected, strict=True):
        order = np.argsort(-probabilities)[:2]
        assert [score["label"] for score in line["classes"]] == list(order)
        found = [score["probability"] for score in line["classes"]]
        np.testing.assert_allclose(found, probabilities[order], rtol=1e-4)


def test_people_read_names_and_percent(weights, images, tmp_path, capsys):
    path, _ = weights
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncat\ndog\n")
    arguments = ["predict", str(path), str(images / "a.png"), "--model", "timm/test_nfnet"]
    assert main([*arguments, "--class-names", str(names), "--image-size", "32"]) == 0
    first, *scores = capsys.readouterr().out.splitlines()
    assert first == str(images / "a.png")
    assert sorted(line.split()[-1] for line in scores) == ["ant", "bee", "cat", "dog"]
    assert all(line.split()[0].endswith("%") for line in scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{weights}", "{images}"], "does not say which model it is of"),
        (["{weights}", "{images}/none.png", "--model", "timm/test_nfnet"], "No file or folder"),
        (["{weights}", "{empty}", "--model", "timm/test_nfnet"], "No images in"),
        (["{weights}", "{weights}", "--model", "timm/test_nfnet"], "Cannot read"),
        (["{weights}", "--model", "timm/test_nfnet"], "Which images?"),
        (
            ["{weights}", "{images}", "--model", "timm/test_nfnet", "--top", "0"],
            "top=0 must be at least 1",
        ),
        (["{weights}", "{images}", "--model", "timm/tset_nfnet"], "Did you mean 'timm/test_nfnet'"),
        (
            ["{weights}", "{images}", "--model", "timm/test_nfnet", "--class-names", "{names}"],
            "There are 1 names, and the model has 4 classes",
        ),
        (["{empty}", "{images}"], "config.json"),
        (["{empty}/none", "{images}"], "nor the name of weights"),
    ],
)
def test_what_cannot_be_predicted_is_refused(weights, images, tmp_path, capsys, options, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "names").write_text("one\n")
    places = dict(
        weights=weights[0], images=images, empty=tmp_path / "empty", names=tmp_path / "names"
    )
    assert main(["predict", *(option.format(**places) for option in options)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_predictions_come_as_they_are_made(weights, images):
    (images / "b.jpg").write_bytes(b"not an image")
    classifier = load_classifier(weights[0], model="timm/test_nfnet", image_size=32)
    found = predict(classifier, [images], batch_size=1)
    assert next(found).file.name == "a.png"
    (images / "below" / "c.png").unlink()
    assert next(found).problem
    assert next(found).problem == "No such file or directory"


@pytest.mark.parametrize("batch_size", ["1", "2", "3"])
def test_what_is_no_image_is_named_and_keeps_no_other_from_its_classes(
    weights, images, capsys, batch_size
):
    command = ["predict", str(weights[0]), str(images), "--model", "timm/test_nfnet", "--json"]
    command += ["--image-size", "32", "--batch-size", batch_size]
    assert main(command) == 0
    right = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (images / "b.jpg").write_bytes(b"not an image")
    assert main(command) == 1
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert f"Cannot read {str(images / 'b.jpg')!r} as an image" in err
    assert found[1]["problem"]
    assert not found[1]["classes"]
    assert [found[0], found[2]] == [right[0], right[2]]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_files_are_seen_as_bytes_by_the_view(images, count):
    """Official views leave the range of bytes; what comes of them is rounded and cut off."""
    files = [images / name for name in ("a.png", "b.jpg", "below/c.png")]
    seen = []

    def logits(batch):
        seen.append(batch)
        return np.zeros((len(batch), 2))

    form = ImageFormat(
        size=24, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, crop=0.6, view="official_squash"
    )
    found = list(name_images(files, form, ["x", "y"], logits, top=1, batch_size=count))
    assert [prediction.file for prediction in found] == files
    assert {batch.shape for batch in seen} == {(min(count, 3), 24, 24, 3)}
    view = CentreView(24, 3, "official_squash", 0.6)
    fractions = np.stack([view(file.read_bytes(), np.random.default_rng(0)) for file in files])
    assert fractions.min() < -1
    assert fractions.max() > 256
    expected = np.where(fractions < 0, 0, np.where(fractions > 255, 255, np.rint(fractions)))
    np.testing.assert_array_equal(np.concatenate(seen)[:3], expected)


def test_models_are_listed(capsys):
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in nfx.list_models())
    assert "83.6" in table
    assert "12.38 @ 256" in table


def test_models_are_listed_for_machines(capsys):
    assert main(["models", "nfnet_f0", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record == {
        "name": "nfnet_f0", "lineage": "official", **model_sizes()["nfnet_f0"]._asdict(),
        "train_size": 192, "test_size": 256, "top1": 83.6, "source": "official README",
    }  # fmt: skip
    assert main(["models", "nothing*"]) == 1
    assert "No model is named like 'nothing*'" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [{"data": 8}, {"data": 2, "fsdp": 2, "model": 2}])
def test_logits_do_not_depend_on_the_mesh(weights, shape):
    classifier = load_classifier(weights[0], model="timm/test_nfnet")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    one, other = (
        logits_on(classifier, make_mesh(axes, jax.devices()[: math.prod(axes.values())]))(pixels)
        for axes in ({"data": 1}, shape)
    )
    assert other.shape == (5, 4)
    np.testing.assert_allclose(other, one, atol=1e-5, rtol=1e-5)


@pytest.fixture
def labelled(tmp_path):
    """Images of four classes, with a folder each; every tenth is held out."""
    rng = np.random.default_rng(1)
    for label in ("ant", "bee", "cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number:02}.png")
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data=8", "data=2,fsdp=2,model=2"])
def test_weights_are_evaluated_on_a_folder_by_what_they_predict(weights, labelled, capsys, mesh):
    path, _ = weights
    options = ["--model", "timm/test_nfnet", "--image-size", "32", "--json"]
    assert main(["evaluate", str(path), "--data", str(labelled), "--mesh", mesh, *options]) == 0
    found = json.loads(capsys.readouterr().out)["weights"]
    source = open_sources(str(labelled)).test
    files = [labelled / source[index].name for index in range(len(source))]
    labels = [source[index].label for index in range(len(source))]
    classifier = load_classifier(path, model="timm/test_nfnet", image_size=32)
    predictions = predict(classifier, files, top=4)
    scores = [{s.label: s.probability for s in each.classes} for each in predictions]
    right = [max(row, key=row.get) == label for row, label in zip(scores, labels, strict=True)]
    losses = [-np.log(row[label]) for row, label in zip(scores, labels, strict=True)]
    assert found["examples"] == len(labels) == 8
    assert found["accuracy"] == np.mean(right)
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "timm/test_nfnet"], "know no images: give some by --data DIR"),
        (["--model", "timm/test_nfnet", "--data", "sample"], "knows 4 classes, and the images are"),
        (["--data", "{data}"], "does not say which model it is of"),
        (["--data", "{data}", "--step", "3"], "weights have no steps"),
        (
            ["--data", "{data}", "--model", "timm/test_nfnet", "--class-names", "{names}"],
            "class 1 of the model is 'bat', and 'bee' in the images",
        ),
    ],
)
def test_weights_that_cannot_be_evaluated(weights, labelled, tmp_path, capsys, options, message):
    names = tmp_path / "names.txt"
    names.write_text("ant\nbat\ncat\ndog\n")
    options = [option.format(data=labelled, names=names) for option in options]
    assert main(["evaluate", str(weights[0]), *options]) == 1
    assert message in capsys.readouterr().err


def describe(weights, path, class_names):
    """The same weights in a file that says what it is of."""
    save_classifier(
        load_classifier(weights, model="timm/test_nfnet", class_names=class_names), path
    )
    return str(path)


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        (["bee", "ant", "cat", "dog"], "class 0 of the model is 'bee', and 'ant' in the images"),
        (["ant", "bee", "cat", "eel"], "class 3 of the model is 'eel', and 'dog' in the images"),
    ],
)
def test_weights_that_know_other_classes_are_not_evaluated(
    weights, labelled, tmp_path, capsys, class_names, message
):
    path = describe(weights[0], tmp_path / "described.safetensors", class_names)
    assert main(["evaluate", path, "--data", str(labelled)]) == 1
    assert message in capsys.readouterr().err


def test_numbers_are_no_names_of_classes(weights):
    of_numbers = load_classifier(weights[0], model="timm/test_nfnet")
    assert not of_numbers.class_difference(["ant", "bee", "cat", "dog"])
    assert "knows 4 classes, and the images are of 3" in of_numbers.class_difference("012")
    assert not of_numbers.class_difference("0123")
    # Folders of ten and more are sorted as text.
    assert "class 1 of the model is '1', and '2'" in of_numbers.class_difference("0213")


def test_weights_that_know_their_classes_take_as_many_other_names(
    weights, images, tmp_path, capsys
):
    path = describe(weights[0], tmp_path / "described.safetensors", list("wxyz"))
    (tmp_path / "names").write_text("one\n")
    options = ["--class-names", str(tmp_path / "names")]
    assert main(["predict", path, str(images), *options]) == 1
    assert "There are 1 names, and the model has 4 classes" in capsys.readouterr().err
