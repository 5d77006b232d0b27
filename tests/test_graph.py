"""Rewrites of the graph, and looking into it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfx
from nfx.graph import adapt_input_channels, module_paths, reset_classifier, taps
from nfx.nn import STANDARDIZATIONS
from nfx.optim import train_only
from tests.reference import create_abstract, official_model, tiny_overrides


@pytest.fixture(scope="module")
def model():
    return official_model("nfnet_f0", num_classes=10, **tiny_overrides())


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(1), (40, 33, 3))


# Taps


def test_taps_see_what_a_run_computes(model, image):
    points = ["stem/1", r"stages/\d+/blocks/0", "stages/1/blocks/1/conv1b", "head"]
    tapped = taps(model, points)
    logits, activations = jax.jit(tapped)(image)
    assert sorted(activations) == [
        "head", "stages/0/blocks/0", "stages/1/blocks/0", "stages/1/blocks/1/conv1b",
        "stages/2/blocks/0", "stages/3/blocks/0", "stem/1",
    ]  # fmt: skip
    features = jax.jit(lambda model: model.features(image))(model)
    np.testing.assert_array_equal(activations["head"], logits)
    np.testing.assert_allclose(logits, features.logits, atol=1e-5)
    np.testing.assert_allclose(activations["stages/0/blocks/0"], features.stages[0], atol=1e-5)
    block = model.stages[1].blocks[1]
    expected = jax.jit(lambda model: model.stem[0](image))(model)
    _, first = jax.jit(taps(model, "stem/0"))(image)
    np.testing.assert_allclose(first["stem/0"], expected, atol=1e-5)
    assert activations["stages/1/blocks/1/conv1b"].shape[-1] == block.conv1b.weight.shape[-1]


def test_taps_do_not_run_anything_twice(model, image):
    count = lambda function: str(jax.make_jaxpr(function)(model)).count("conv_general_dilated[")
    plain = count(lambda model: model(image))
    assert plain == count(lambda model: taps(model, r"stages/\d+/blocks/\d+")(image))


def test_taps_can_be_mapped_and_differentiated(model, image):
    images = jnp.stack([image, 2 * image])
    tapped = jax.jit(jax.vmap(lambda x: taps(model, "final_conv")(x)))
    _, activations = tapped(images)
    assert activations["final_conv"].shape[0] == 2

    def energy(x):
        _, activations = taps(model, "stages/0/blocks/0")(x)
        return jnp.sum(jnp.square(activations["stages/0/blocks/0"]))

    expected = lambda x: jnp.sum(jnp.square(model.features(x).stages[0]))
    gradient, same = jax.jit(lambda x: (jax.grad(energy)(x), jax.grad(expected)(x)))(image)
    np.testing.assert_allclose(gradient, same, rtol=1e-4, atol=1e-5)


def test_parents_and_children_can_be_tapped_under_checkpoint_and_grad(model, image):
    points = ["stages/1/blocks/0", "stages/1/blocks/0/conv2", "stages/1/blocks/0/attention"]

    def energy(model):
        logits, activations = jax.checkpoint(taps(model, points))(image)
        assert len(activations) == 3
        return jnp.sum(activations["stages/1/blocks/0"]) + jnp.sum(logits)

    gradients = jax.eval_shape(jax.grad(energy), model)
    assert jax.tree.structure(gradients) == jax.tree.structure(model)


def test_a_tapped_function_can_be_tapped_again(model, image):
    points = ["stages/1/blocks/0", "stages/1/blocks/0/conv1", "head"]
    inner = lambda model, image: taps(model, [*points, "stem/0"])(image)
    (logits, within), around = jax.jit(taps(model, points, call=inner))(image)
    assert sorted(around) == sorted(points)
    assert sorted(within) == sorted([*points, "stem/0"])
    for point in points:
        np.testing.assert_array_equal(around[point], within[point])
    np.testing.assert_array_equal(around["head"], logits)


def test_a_tapped_model_is_left_alone(model, image):
    before = jax.tree.structure(model)
    jax.eval_shape(taps(model, "head"), image)
    assert jax.tree.structure(model) == before
    assert type(model.head) is nfx.nn.Linear


def test_what_cannot_be_tapped_is_named(model):
    with pytest.raises(
        ValueError, match=r"'blocks/conv9' matches none of the \d+ modules .* 'stem"
    ):
        taps(model, ["stem/0", "blocks/conv9"])
    assert "stages/1/blocks/1/attention/fc0" in module_paths(model)
    only_stem = taps(model, ["stem/0", "head"], call=lambda model, image: model.stem[0](image))
    with pytest.raises(ValueError, match="The run did not call 'head'"):
        jax.eval_shape(only_stem, jax.ShapeDtypeStruct((32, 32, 3), jnp.float32))
    layers = eqx.nn.Sequential([eqx.nn.Lambda(jax.nn.relu)])
    assert module_paths(layers) == ["layers/0"]


# Feature maps


@pytest.mark.parametrize(
    "name", ["nfnet_f0", "nf_resnet50", "nf_regnet_b0", "timm/test_nfnet", "timm/nf_resnet26"]
)
def test_feature_maps_are_as_declared(name):
    model = create_abstract(name)
    image = jax.ShapeDtypeStruct((96, 65, 3), jnp.float32)
    features = jax.eval_shape(lambda model, image: model.features(image), model, image)
    assert [info.name for info in model.feature_info] == [
        "stem", "stages/0", "stages/1", "stages/2", "stages/3", "final",
    ]  # fmt: skip
    maps = (features.stem, *features.stages, features.final)
    for info, found in zip(model.feature_info, maps, strict=True):
        assert found.shape == (96 // info.stride, -(-65 // info.stride), info.channels)
    assert features.pooled.shape == (model.feature_info[-1].channels,)


def test_strides_are_those_of_the_papers():
    strides = lambda name: [info.stride for info in create_abstract(name).feature_info]
    assert strides("nfnet_f0") == [4, 4, 8, 16, 32, 32]
    assert strides("nf_regnet_b0") == [2, 4, 8, 16, 32, 32]
    assert strides("resnet50") == [4, 4, 8, 16, 32, 32]
    assert strides("nfnet_nano") == [2, 2, 4, 8, 8, 8]


# Another classifier


@pytest.mark.slow
def test_a_reset_classifier_changes_nothing_else(model, image, key):
    fresh = reset_classifier(model, 3, key=key)
    run = jax.jit(lambda model: model.features(image))
    np.testing.assert_array_equal(run(fresh).pooled, run(model).pooled)
    assert run(fresh).logits.shape == (3,)
    assert float(jnp.std(fresh.head.weight)) == pytest.approx(0.01, rel=0.15)
    assert nfx.unit_axes(fresh).head.weight == (-1,)
    with pytest.raises(ValueError, match="num_classes=0 must be positive"):
        reset_classifier(model, 0, key=key)


@pytest.mark.slow
def test_only_the_chosen_leaves_are_trained(model, image, key):
    model = reset_classifier(model, 3, key=key)
    optimizer = train_only(nfx.optim.nfnet_sgd(0.1), r"head/.*")
    state = optimizer.init(model)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 3 * 3 * 193

    @jax.jit
    def step(model, state):
        gradients = jax.grad(lambda model: jnp.sum(jnp.square(model(image) - 1)))(model)
        updates, state = optimizer.update(gradients, state, model)
        return optax.apply_updates(model, updates), state

    trained, _ = step(model, state)
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), trained, model)
    assert [path for path, yes in nfx._tree.leaves_by_path(changed).items() if yes] == [
        "head/weight", "head/bias",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="average is of a part of the parameters"):
        nfx.optim.ema_parameters(state)
    with pytest.raises(ValueError, match="'tail' matches none of the 114 leaves, such as"):
        train_only(optax.sgd(0.1), ["head/weight", "tail"]).init(model)


# Other channels


# All but the stem as small as can be.
ONE_BLOCK = {
    "nfnet_f0": dict(depths=(1,), widths=(32,), strides=(1,), group_width=16, two_convs=False),
    "timm/nfnet_f0": dict(depths=(1,), widths=(32,), strides=(1,), group_width=16),
    "se_resnext_micro": dict(depths=(1,), widths=(32,), strides=(1,), groups=(1,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_BLOCK)
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_images_of_equal_channels_give_what_they_gave(name, channels, key):
    model = jax.jit(lambda: nfx.create_model(name, key=key, num_classes=4, **ONE_BLOCK[name]))()
    model = jax.tree.map(lambda leaf: leaf + 0.1 if leaf.ndim == 1 else leaf, model)
    first = lambda model: getattr(model.stem[0], "conv", model.stem[0])
    adapted = adapt_input_channels(model, channels)
    gray = jax.random.normal(key, (8, 8, 1))
    before = jax.jit(lambda conv: conv(jnp.tile(gray, (1, 1, 3))))(first(model))
    after = jax.jit(lambda conv: conv(jnp.tile(gray, (1, 1, channels))))(first(adapted))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_kernels_follow_the_rules_of_timm(model, channels):
    adapted = adapt_input_channels(model, channels)
    kernel, found = model.stem[0].weight, adapted.stem[0].weight
    if channels == 1:
        expected = kernel.sum(2, keepdims=True)
    else:
        order = [index % 3 for index in range(channels)]
        expected = kernel[:, :, order] * 3 / channels
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # The standardized kernel keeps its scale, less the mean over the new channels.
    standardize = STANDARDIZATIONS[model.stem[0].standardization]
    old = standardize(kernel, model.stem[0].gain)
    new = standardize(found, adapted.stem[0].gain)
    scaled = old.sum(2, keepdims=True) if channels == 1 else old[:, :, order] * 3 / channels
    np.testing.assert_allclose(new, scaled - scaled.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)


def test_what_cannot_be_adapted_is_refused(model):
    with pytest.raises(ValueError, match="in_channels=0 must be positive"):
        adapt_input_channels(model, 0)
    with pytest.raises(ValueError, match="takes images of 1 channels, and only models"):
        adapt_input_channels(adapt_input_channels(model, 1), 4)
