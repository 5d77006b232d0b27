"""What a recipe makes of images: looked at, trained on, judged by, skipped."""

import dataclasses
import io
import json
import os
import re
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from nfx.cli import main
from nfx.data import (
    ArraySource,
    AsStored,
    BadImage,
    CentreView,
    Images,
    load_sample,
    open_sources,
    RandomCrop,
    Record,
    Splits,
    survey,
    training_batches,
)
from nfx.recipes import build_parts, contact_sheet, Recipe
from nfx.recipes._images import recipe_images
from nfx.recipes._recipe import check_same_recipe
from nfx.train import augment_examples, BadImagesLog, TrainingError


FOLDER = Recipe(data="x", image_size=48, test_size=64, color="rgb", crop_area=0.25)


def write_pictures(root, *, broken=(), count=12):
    """Two classes of plain pictures of several sizes and kinds; returns the folder."""
    for index, name in enumerate(("blue", "red")):
        (root / name).mkdir(parents=True)
        for number in range(count):
            path = root / name / f"{number:02}.{'jpg' if number % 2 else 'png'}"
            color = [10 * number, 40, 40]
            color[2 * (1 - index)] = 250
            Image.new("RGB", (60 + number, 50), tuple(color)).save(path)
            if path.stem in broken:
                path.write_bytes(path.read_bytes()[:60])
    return root


class TestRecipes:
    def test_the_sample_is_taken_as_it_is(self):
        train, test = recipe_images(Recipe())
        assert train.transform == test.transform == AsStored((28, 28, 1))

    def test_the_view_can_be_chosen(self):
        train, test = recipe_images(Recipe(image_size=32, color="rgb", crop_area=0.5))
        example = train.load(0, np.random.default_rng(0))
        assert example.image.shape == (32, 32, 3)
        assert test.judge(0).image.shape == (32, 32, 3)

    @pytest.mark.parametrize(
        ("model", "view"),
        [
            ("nfnet_f0", CentreView(64, 3, "official_squash", 256 / 288)),
            ("nf_regnet_b0", CentreView(64, 3, "official_crop", 224 / 256)),
            ("timm/dm_nfnet_f0", CentreView(64, 3, "timm_squash", 0.9)),
            ("nfnet_micro", CentreView(64, 3, "timm", 1.0)),
        ],
    )
    def test_models_are_judged_as_their_cards_say(self, model, view):
        nothing = ArraySource(np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, np.int32), ["a", "b"])
        train, test = recipe_images(
            dataclasses.replace(FOLDER, model=model), Splits(nothing, nothing)
        )
        assert test.transform == view
        assert train.transform == RandomCrop(48, 3, area=(0.25, 1.0))

    def test_without_random_crops_the_centre_is_trained_on(self):
        nothing = ArraySource(np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, np.int32), ["a", "b"])
        train, _ = recipe_images(
            dataclasses.replace(FOLDER, crop_area=1.0), Splits(nothing, nothing)
        )
        assert train.transform == CentreView(48, 3, "timm", 1.0)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"crop_area": 0.0}, r"crop_area=0.0 must be in \(0, 1\]"),
            ({"bad_share": 2.0}, r"bad_share=2.0 must be in \[0, 1\]"),
            ({"test_size": 0}, "test_size=0 must be at least 1"),
            ({"augment_order": ("normalize", "randaugment", "flip"), "randaugment_layers": 1},
             "RandAugment works on bytes"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_refused(self, fields, message):
        with pytest.raises(ValueError, match=message):
            Recipe(**fields)

    def test_noise_has_the_size_that_is_asked_for(self):
        train, _ = recipe_images(dataclasses.replace(FOLDER, data="noise", crop_area=1.0))
        assert len(train) == 1_281_167
        assert train.load(5, np.random.default_rng(0)).image.shape == (48, 48, 3)


class OddSource:
    """An array, a palette, what is none, and one that cannot be read."""

    class_names = ("even", "odd")

    def __len__(self):
        return 4

    def __getitem__(self, index):
        file = io.BytesIO()
        Image.new("P", (7, 5)).save(file, "GIF")
        images = [np.zeros((3, 4, 1), np.uint8), file.getvalue(), b"", b"nothing"]
        return Record(images[index], index % 2, f"image {index}")


def test_a_survey_counts_what_is_there():
    told = []
    found = survey(OddSource(), progress=told.append)
    assert (found.images, found.examined, sum(told)) == (4, 4, 4)
    assert found.counts.tolist() == [1, 1]
    assert found.sizes.tolist() == [[4, 3], [7, 5]]
    assert found.kinds == {"array of 1 channels": 1, "GIF P": 1}
    assert found.bad == [
        BadImage(2, "image 2", "it is empty"),
        BadImage(3, "image 3", found.bad[1].reason),
    ]
    assert found.stored_bytes[0] == 12


def test_a_survey_of_some_is_spread_over_all():
    images = np.zeros((100, 2, 2, 1), np.uint8)
    found = survey(ArraySource(images, np.arange(100) // 50, ["a", "b"]), limit=10)
    assert found.counts.tolist() == [5, 5]
    with pytest.raises(ValueError, match="limit=0"):
        survey(OddSource(), limit=0)


MIXED = Recipe(mixup=0.2, cutmix=True, randaugment_layers=1, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [32, 2])
def test_a_contact_sheet_shows_what_a_run_sees_first(batch_size):
    """Tiles are the pixels that the training step computes from its first batches."""
    recipe = dataclasses.replace(MIXED, batch_size=batch_size)
    sheet = np.asarray(contact_sheet(recipe, count=4, columns=4))
    parts = build_parts(recipe)
    batches = training_batches(parts.images.train, batch_size, seed=3)
    augment = jax.jit(
        lambda images, labels, step: augment_examples(
            parts.preprocessing, images, labels, parts.key, step, jnp.arange(batch_size), 10
        )
    )
    seen = [augment(*next(batches), jnp.asarray(step)).images for step in range(2)]
    scale, margin = 4, 8
    for column, image in enumerate(np.concatenate(seen)[:4]):
        left = margin + column * (28 * scale + margin)
        tile = sheet[margin : margin + 28 * scale : scale, left : left + 28 * scale : scale]
        mean, std = parts.preprocessing[:2]
        pixels = 255 * (image * np.float32(std) + np.float32(mean))
        np.testing.assert_allclose(tile, np.broadcast_to(pixels, tile.shape), atol=1)


def test_people_read_counts_and_what_cannot_be_read(tmp_path, capsys):
    folder = write_pictures(tmp_path / "in", broken={"03"})
    (folder / "red" / "04.heic").write_bytes(b"")
    sheet = tmp_path / "sheet.png"
    arguments = ["inspect", "data", str(folder), "--sheet", str(sheet), "--image-size", "32"]
    assert main([*arguments, "--bad-images", "skip", "--images", "6"]) == 1
    out = capsys.readouterr().out
    assert "2 classes" in out
    assert "2 cannot be used:" in out
    assert "blue/03.jpg: it is damaged" in out
    assert "Files that are taken for no images: 1 .heic" in out
    with Image.open(sheet) as picture:
        assert picture.width > 6 * 112


def test_names_in_no_encoding_are_shown(tmp_path, monkeypatch):
    """As those of Linux may be."""
    folder = write_pictures(tmp_path / "in")
    (folder / "red" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    screen = io.BytesIO()
    strict = io.TextIOWrapper(screen, "utf-8", errors="strict", write_through=True)
    monkeypatch.setattr("sys.stdout", strict)
    assert main(["inspect", "data", str(folder), "--sheet", ""]) == 1
    assert b"red/caf\\udce9.png: it is empty" in screen.getvalue()
    said = []
    with closing(BadImagesLog(tmp_path, share=1.0, say=said.append)) as log:
        log.take("train", 9, BadImage(0, os.fsdecode(b"caf\xe9.png"), "it is empty"))
    assert said[0].encode().endswith(b"'caf\\udce9.png': it is empty")


def test_names_of_classes_are_not_taken_for_markup(tmp_path, capsys):
    folder = write_pictures(tmp_path / "in")
    (folder / "red").rename(folder / "tree [red]")
    (folder / "blue").rename(folder / "[bold]")
    assert main(["inspect", "data", str(folder), "--sheet", ""]) == 0
    out = capsys.readouterr().out
    assert "tree [red]" in out
    assert "[bold]" in out


def test_images_are_named_once(tmp_path, capsys):
    assert main(["inspect", "data", str(tmp_path), "--data", str(tmp_path)]) == 1
    assert "without --data" in capsys.readouterr().err


def test_programs_read_json(tmp_path, capsys):
    folder = write_pictures(tmp_path / "in")
    assert main(["inspect", "data", str(folder), "--json", "--sheet", ""]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["train"]["classes"] == {"blue": 11, "red": 11}
    assert found["test"]["sides"]["width"] == [69, 69, 69]
    assert found["train"]["bad"] == []


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["models"], 2), (["--help"], 0)])
def test_what_can_be_inspected_is_said(arguments, code, capsys):
    assert main(["inspect", *arguments]) == code
    told = capsys.readouterr()
    said = told.err if code else told.out
    assert "usage: nfx inspect KIND" in said
    assert re.findall(r"^  (\w+)", said, re.MULTILINE) == ["data", "model"]


def test_bad_images_are_listed_once_and_too_many_stop_the_run(tmp_path):
    bad = [BadImage(number, f"file {number}", "it is empty") for number in range(4)]
    said = []
    with closing(BadImagesLog(tmp_path, share=0.02, say=said.append)) as log:
        for each in (bad[0], bad[1], bad[0]):
            log.take("train", 100, each)
        log.take("test", 100, bad[0])
    assert len(said) == 2
    path = tmp_path / "bad_images.jsonl"
    path.write_text(path.read_text() + '{"split": "tr')  # killed while it wrote
    with closing(BadImagesLog(tmp_path, share=0.02, say=said.append)) as log:
        log.take("train", 100, bad[1])
        with pytest.raises(TrainingError, match=r"3 of 100 train images .* 'file 2': it is empty"):
            log.take("train", 100, bad[2])
    with (
        closing(BadImagesLog(tmp_path, share=0.02, say=said.append)) as log,  # resumed as it is
        pytest.raises(TrainingError, match=r"3 of 100 train images .* 'file 0': it is empty"),
    ):
        log.take("train", 100, bad[0])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(record["split"], record["index"]) for record in records] == [
        ("train", 0), ("train", 1), ("test", 0), ("train", 2),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_skips_bad_images_and_says_so(tmp_path, capsys):
    folder = write_pictures(tmp_path / "in", broken={"03", "09"})
    arguments = [
        "train", "--data", str(folder), "--run-dir", str(tmp_path / "run"), "--model", "nfnet_nano",
        "--image-size", "16", "--batch-size", "8", "--steps", "4", "--checkpoint-every", "4",
    ]  # fmt: skip
    assert main(arguments) == 1
    assert "cannot be used" in capsys.readouterr().err
    arguments[4] = str(tmp_path / "skips")
    assert main([*arguments, "--bad-images", "skip", "--bad-share", "0.2"]) == 1
    assert "more than the share of 0.2" in capsys.readouterr().err  # both test images
    assert main([*arguments, "--run-dir", str(tmp_path / "all"), "--bad-images", "skip",
                 "--bad-share", "1"]) == 1  # fmt: skip
    assert "None of the images to evaluate on can be used" in capsys.readouterr().err


def test_the_sample_still_is_what_it_was():
    train, _ = load_sample()
    batch = next(training_batches(train, 8, seed=0))
    assert batch.images.dtype == np.uint8
    assert isinstance(train, Images)
    assert [len(source) for source in open_sources("sample")] == [5000, 1000]


def test_a_run_may_skip_the_bad_image_that_stopped_it_and_its_images_may_move():
    """Until then it was the same run."""
    begun = Recipe()
    check_same_recipe("run", begun, dataclasses.replace(begun, bad_images="skip", bad_share=0.5))
    check_same_recipe("run", begun, dataclasses.replace(begun, data="/where/they/are/now"))
    with pytest.raises(ValueError, match=r"another run, with seed=0, and not 1\. To"):
        check_same_recipe("run", begun, dataclasses.replace(begun, bad_images="skip", seed=1))


@pytest.mark.slow
def test_a_run_is_evaluated_on_float_pixels_and_with_bad_images(tmp_path, capsys):
    """The official views keep fractions: a run of such a model is evaluated on them."""
    folder = write_pictures(tmp_path / "in")
    arguments = [
        "train", "--data", str(folder), "--run-dir", str(tmp_path / "run"), "--model", "nfnet_nano",
        "--image-size", "16", "--test-size", "24", "--batch-size", "8", "--steps", "2",
    ]  # fmt: skip
    assert main(arguments) == 0
    (folder / "red" / "09.jpg").write_bytes(b"")
    assert main(["evaluate", str(tmp_path / "run"), "--bad-images", "skip"]) == 0
    told = capsys.readouterr()
    assert "\n1 images of the test set" in told.out
    assert "'red/09.jpg': it is empty" in told.err
