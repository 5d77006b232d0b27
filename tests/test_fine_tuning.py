"""Runs that start from weights: what they start with, and what becomes of it."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import nfx
from nfx._tree import leaves_by_path
from nfx.checkpoint import CheckpointStore, tree_digest
from nfx.cli import main
from nfx.data import load_sample, no_images, Splits
from nfx.graph import adapt_input_channels
from nfx.recipes import build_parts, get_recipe, Recipe, RunOptions, train
from nfx.recipes._build import check_mesh
from nfx.recipes._start import absolute_start, check_start, start_from
from nfx.sharding import make_mesh, read_mesh
from nfx.train import abstract_state, create_state, RunDirectory
from nfx.weights import to_timm, write_weights


pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fine-tuning")]

SMALL = Recipe(model="nfnet_nano", batch_size=16, steps=2, warmup_steps=1.0, seed=1)
OTHERS = ("cat", "dog", "eel")


def mesh_of(**axes):
    return make_mesh(axes, jax.devices()[: int(np.prod(list(axes.values())))])


def parts_of(recipe, classes=None):
    if classes is None:
        return build_parts(recipe)
    nothing = no_images(classes)
    return build_parts(recipe, Splits(nothing, nothing))


def save_run(path, recipe, shift=1.0):
    """A run without training: its average is the first parameters and a number."""
    parts = parts_of(recipe)
    state = create_state(parts.build_model, parts.optimizer, mesh_of(data=1))
    state = dataclasses.replace(
        state, opt_state=jax.tree.map(lambda x: x + x.dtype.type(shift), state.opt_state)
    )
    config = {
        "recipe": dataclasses.asdict(recipe),
        "class_names": list(parts.images.train.class_names),
    }
    directory = RunDirectory.create(path, config)
    with CheckpointStore(directory.checkpoints) as store:
        store.save(7, state, config)
    return state


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "source"
    return path, save_run(path, dataclasses.replace(SMALL, seed=0))


def expect_equal(actual, expected):
    actual, expected = leaves_by_path(actual), leaves_by_path(expected)
    assert actual.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(actual[name], leaf, err_msg=name)


def test_a_run_starts_from_the_average_of_another_to_the_bit(source):
    path, saved = source
    recipe = dataclasses.replace(SMALL, init=str(path), dropout=0.5, stochastic_depth=0.3)
    parts, mesh = parts_of(recipe), mesh_of(data=2, fsdp=2)
    state, words = start_from(recipe, parts, mesh)
    assert "its head of 10 classes is kept" in words
    assert tree_digest(state.model) == tree_digest(saved.ema)
    expect_equal(state.ema, saved.ema)
    assert int(state.step) == 0
    like = abstract_state(parts.build_model, parts.optimizer, mesh)
    assert jax.tree.structure(state) == jax.tree.structure(like)
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(like), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (
            expected.shape, expected.dtype, expected.sharding,
        )  # fmt: skip
    fresh = create_state(parts.build_model, parts.optimizer, mesh).opt_state
    counts = [name for name in leaves_by_path(fresh) if "/ema/" not in name]
    for name in counts:
        np.testing.assert_array_equal(
            leaves_by_path(state.opt_state)[name], leaves_by_path(fresh)[name]
        )


def test_other_classes_have_a_fresh_head_on_the_same_backbone(source):
    path, saved = source
    recipe = dataclasses.replace(SMALL, init=f"{path}@7")
    parts = parts_of(recipe, OTHERS)
    state, words = start_from(recipe, parts, mesh_of(data=1))
    assert "a fresh head of 3 classes takes the place of that of 10" in words
    expect_equal(state.model.head, jax.jit(parts.build_model)().head)
    expect_equal(state.model.stages, saved.ema.stages)
    expect_equal(state.model.stem, saved.ema.stem)
    other_names = [*load_sample().train.class_names[1:], "Hat"]
    assert (
        "fresh head of 10" in start_from(recipe, parts_of(recipe, other_names), mesh_of(data=1))[1]
    )


@pytest.fixture
def weights(tmp_path):
    """A file of weights of three classes, which does not say what it is of."""
    build = lambda: nfx.create_model("timm/test_nfnet", num_classes=3, key=jax.random.key(5))
    model = jax.jit(build)()
    path = tmp_path / "weights.safetensors"
    write_weights(path, to_timm(model))
    return path, model


def test_a_file_of_weights_is_adapted_to_gray_images(weights):
    path, model = weights
    recipe = dataclasses.replace(SMALL, model="timm/test_nfnet", init=str(path))
    state, words = start_from(recipe, parts_of(recipe, OTHERS), mesh_of(data=2))
    assert "its head of 3 classes is kept" in words  # it has no names, and as many
    assert "adapted from 3 channels to 1" in words
    expect_equal(state.model.head, model.head)
    expected = leaves_by_path(adapt_input_channels(model, 1))
    for name, leaf in leaves_by_path(state.model).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-5, err_msg=name)
    rgb = dataclasses.replace(recipe, color="rgb")
    _, words = start_from(rgb, parts_of(rgb, OTHERS), mesh_of(data=1))
    assert "normalized by another mean" in words


@pytest.mark.long
def test_plain_weights_start_a_stacked_run_and_the_other_way_round(tmp_path):
    plain = dataclasses.replace(SMALL, model="nfnet_micro")
    stacked = dataclasses.replace(plain, stack=True, remat="full", unroll=2)
    for number, (old, new) in enumerate([(plain, stacked), (stacked, plain)]):
        saved = save_run(tmp_path / str(number), old)
        recipe = dataclasses.replace(new, init=str(tmp_path / str(number)))
        parts, mesh = parts_of(recipe), mesh_of(data=1, fsdp=2)
        state, _ = start_from(recipe, parts, mesh)
        like = abstract_state(parts.build_model, parts.optimizer, mesh)
        assert jax.tree.structure(state) == jax.tree.structure(like)
        as_plain = nfx.graph.unstack_blocks
        expect_equal(as_plain(state.model), as_plain(saved.ema))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init", "{source}"], "is of 'nfnet_nano', and the recipe trains 'nfnet_micro'"),
        (["--init", "{source}@8", "--model", "nfnet_nano"], "No checkpoint of step 8 in"),
        (["--init", "{source}@best", "--model", "nfnet_nano"], "No checkpoint that was evaluated"),
        (["--init", "{source}/none"], "nor the name of weights"),
        (["--init", "timm/dm_nfnet_f0.dm_in1k"], "is of 'timm/dm_nfnet_f0'"),
        (["--init", "{source}/checkpoints"], "is not a run directory"),
        (["--init", "{source}", "--model", "nfnet_nano", "--color", "rgb"], "is of gray images"),
    ],
)
def test_what_is_refused_leaves_no_run_behind(source, tmp_path, capsys, options, message):
    options = [option.format(source=source[0]) for option in options]
    assert main(["train", "--run-dir", str(tmp_path / "run"), *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_file_that_says_it_is_of_gray_images_starts_no_run_of_rgb(tmp_path):
    path = tmp_path / "gray.safetensors"
    description = {"model": SMALL.model, "images": {"channels": 1}}
    write_weights(path, {"any": np.zeros(1, np.float32)}, description)
    check_start(dataclasses.replace(SMALL, init=str(path)))
    with pytest.raises(ValueError, match="only what is of RGB can be adapted"):
        check_start(dataclasses.replace(SMALL, init=str(path), color="rgb"))


def test_what_a_run_starts_from_means_the_same_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_start("runs/a@best") == str(tmp_path / "runs" / "a@best")
    assert absolute_start("timm/dm_nfnet_f0.dm_in1k") == "timm/dm_nfnet_f0.dm_in1k"
    assert absolute_start("") == ""
    (tmp_path / "timm" / "mine").mkdir(parents=True)
    assert absolute_start("timm/mine") == str(tmp_path / "timm" / "mine")


def test_a_frozen_backbone_stays_as_it_is():
    parts = parts_of(dataclasses.replace(SMALL, freeze="backbone"), OTHERS)

    @jax.jit
    def after_two_steps():
        model = parts.build_model()
        state, trained = parts.optimizer.init(model), model
        for _ in range(2):
            gradients = jax.tree.map(jnp.ones_like, model)
            updates, state = parts.optimizer.update(gradients, state, trained)
            trained = optax.apply_updates(trained, updates)
        return model, trained

    model, trained = map(leaves_by_path, after_two_steps())
    changed = {name for name in model if not np.array_equal(model[name], trained[name])}
    assert changed == {"head/weight", "head/bias"}
    assert parts.options.frozen_statistics


def test_a_frozen_batch_normalized_backbone_takes_microbatches():
    recipe = dataclasses.replace(SMALL, model="se_resnext_micro", clipping=None, microbatches=2)
    mesh = read_mesh("data=all")
    with pytest.raises(ValueError, match="must be 1 for a batch-normalized model"):
        check_mesh(recipe, mesh)
    check_mesh(dataclasses.replace(recipe, freeze="backbone"), mesh)


def test_the_recipe_of_fine_tuning_starts_from_weights_of_its_model():
    recipe = get_recipe("finetune")
    assert recipe.init.startswith(f"{recipe.model}.")
    published = get_recipe("nfnet_f4-finetune-imagenet")
    assert published.learning_rate * published.batch_size / 256 == pytest.approx(0.1)
    assert get_recipe("nfnet_f6-sam-imagenet").sharpness_radius == 0.05


def write_folder(root, count):
    """Images of three of the sample's classes, as files, under other names."""
    for split, images in zip(("train", "test"), load_sample(), strict=True):
        for name, label in zip(OTHERS, (5, 7, 9), strict=True):
            (root / split / name).mkdir(parents=True)
            found = [record for record in map(images.source.__getitem__, range(len(images)))
                     if record.label == label]  # fmt: skip
            for number, record in enumerate(found[:count]):
                pixels = np.asarray(record.image)[..., 0]
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run of a few steps on other classes, its recipe, and that of the run it started from."""
    root = tmp_path_factory.mktemp("tuned")
    write_folder(root / "shoes", 60)
    sample = dataclasses.replace(SMALL, batch_size=32, steps=80, warmup_steps=20.0, ema=0.9)
    train(sample, RunOptions(run_dir=str(root / "source")))
    few = dataclasses.replace(
        sample, data=str(root / "shoes"), steps=12, warmup_steps=3.0, learning_rate=0.5
    )
    recipe = dataclasses.replace(few, init=str(root / "source"))
    return few, train(recipe, RunOptions(run_dir=str(root / "tuned"))).path


def result(run_dir):
    return json.loads((run_dir / "result.json").read_text())


@pytest.mark.long
def test_fine_tuning_is_better_than_to_begin_anew(tuned, tmp_path):
    few, run = tuned
    anew = train(few, RunOptions(run_dir=str(tmp_path / "anew"))).path
    accuracies = [result(path)["test_accuracy"] for path in (anew, run)]
    assert accuracies[0] + 0.1 < accuracies[1], accuracies  # 33 % and 71 %


@pytest.mark.long
def test_a_run_goes_on_without_the_weights_it_started_from(tuned, tmp_path, capsys):
    _, run = tuned
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["0", "12"]
    (run.parent / "source").rename(run.parent / "gone")
    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped, ignore=shutil.ignore_patterns("12", "result.json"))
    assert main(["train", "--run-dir", str(stopped), "--resume"]) == 0
    assert "Resumed from the checkpoint of step 0" in capsys.readouterr().out
    for name in ("params_digest", "test_accuracy", "test_loss", "train_loss"):
        assert result(stopped)[name] == result(run)[name]
