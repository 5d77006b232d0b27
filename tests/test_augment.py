"""Augmentation on the devices: flips, mixing, erasing, normalization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from nfx.augment import (
    augment_batch,
    Augmentation,
    cutmix,
    mixup,
    NF_REGNET_ORDER,
    NFNET_ORDER,
    normalize,
    randaugment,
    random_erase,
    random_flip,
)
from nfx.augment._mix import cutmix_mask, paste, weighted_mean
from nfx.augment._pipeline import _check_order, stage_keys
from tests.reference import load_golden


@pytest.mark.parametrize("case", range(5))
def test_cutmix_masks_are_those_of_the_golden_file(case):
    golden = load_golden("augment_tf")
    height, width, x, y, outside = golden[f"cutmix/{case}/args"]
    mask = cutmix_mask(int(height), int(width), int(x), int(y), float(outside))
    np.testing.assert_array_equal(mask, golden[f"cutmix/{case}/mask"].astype(bool))
    np.testing.assert_allclose(jnp.mean(mask, dtype=jnp.float32), golden[f"cutmix/{case}/ratio"])


def test_mixup_blends_by_its_weight(key):
    first, second = jnp.ones((4, 5, 3)), jnp.zeros((4, 5, 3))
    weights = []
    for k in jax.random.split(key, 8):
        image, weight = mixup(k, first, second, 0.2)
        np.testing.assert_allclose(image, weight, rtol=1e-6)
        weights.append(float(weight))
    assert len(set(weights)) == 8
    assert all(0 <= weight <= 1 for weight in weights)


def test_cutmix_pastes_the_first_image_and_counts_its_pixels(key):
    first, second = jnp.ones((9, 7, 3)), jnp.zeros((9, 7, 3))
    images, shares = jax.vmap(lambda k: cutmix(k, first, second))(jax.random.split(key, 64))
    assert set(np.unique(images)) == {0.0, 1.0}
    np.testing.assert_allclose(jnp.mean(images, axis=(1, 2, 3)), shares, rtol=1e-5)
    assert 0.1 < float(jnp.mean(shares)) < 0.6


def test_flips_mirror_half_of_the_images(key):
    image = jnp.arange(12.0).reshape(2, 3, 2)
    flipped = jax.vmap(lambda k: random_flip(k, image))(jax.random.split(key, 400))
    mirrored = np.asarray([np.array_equal(out, image[:, ::-1]) for out in flipped])
    same = np.asarray([np.array_equal(out, image) for out in flipped])
    assert (mirrored ^ same).all()
    assert 0.4 < mirrored.mean() < 0.6


def test_normalization_is_per_channel():
    image = jnp.asarray([[[0, 255, 51]]], jnp.uint8)
    out = normalize(image, (0.5, 0.5, 0.2), (0.5, 0.25, 1.0))
    np.testing.assert_allclose(out[0, 0], [-1, 2, 0], atol=1e-6)


def test_normalization_takes_bytes_and_the_same_pixels_as_float32(key):
    image = jax.random.bits(key, (5, 4, 3), jnp.uint8)
    scales = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = normalize(image, *scales)
    np.testing.assert_array_equal(normalize(image.astype(jnp.float32), *scales), expected)
    overshoot = normalize(jnp.full((1, 1, 1), 260.0), (0.0,), (1.0,))
    np.testing.assert_allclose(overshoot, 260 / 255, rtol=1e-6)  # not clipped


def golden_pairs(mode):
    """The first and second image of each mixture of the official code, which takes 2B for B."""
    total, half = 8, {"mixup_cutmix": 2}.get(mode, 0)
    if not half:
        return jnp.arange(4), jnp.arange(4, total)
    first = jnp.concatenate([jnp.arange(half), jnp.arange(2 * half, 3 * half)])
    return first, jnp.concatenate([jnp.arange(half, 2 * half), jnp.arange(total - half, total)])


@pytest.mark.parametrize("mode", ["mixup", "cutmix", "mixup_cutmix"])
def test_mixtures_are_those_of_the_golden_file(mode):
    golden = load_golden("augment_tf")
    given = {
        name: jnp.asarray(golden[f"mix/in/{name}"])
        for name in ("images", "labels", "mixup_ratio", "cutmix_ratio", "mask")
    }
    first, second = golden_pairs(mode)
    weights = given["mixup_ratio"][first]
    blended = weighted_mean(
        weights[:, None, None, None], given["images"][first], given["images"][second]
    )
    masks = given["mask"][first][..., 0] > 0
    pasted, _ = jax.vmap(paste)(masks, given["images"][first], given["images"][second])
    cut = jnp.arange(4) >= {"mixup": 4, "cutmix": 0, "mixup_cutmix": 2}[mode]
    images = jnp.where(cut[:, None, None, None], pasted, blended)
    weights = jnp.where(cut, given["cutmix_ratio"][first], weights)  # there not the masks' shares
    np.testing.assert_allclose(images, golden[f"mix/{mode}/images"], rtol=3e-7, atol=1e-5)
    np.testing.assert_allclose(weights, golden[f"mix/{mode}/ratio"], rtol=1e-6)
    one_hot = lambda labels: jax.nn.one_hot(labels, 1 + int(jnp.max(given["labels"])))
    targets = weighted_mean(
        weights[:, None], one_hot(given["labels"][first]), one_hot(given["labels"][second])
    )
    ratio = golden[f"mix/{mode}/ratio"][:, None]
    expected = ratio * one_hot(golden[f"mix/{mode}/labels"])
    expected += (1 - ratio) * one_hot(golden[f"mix/{mode}/mix_labels"])
    np.testing.assert_allclose(targets, expected, atol=1e-6)


UNIT = dict(mean=(0.0,), std=(1 / 255,))  # leaves pixels on their scale


def batch(key, count=8):
    keys = jax.random.split(key, count)
    images = jnp.arange(1.0, count + 1)[:, None, None, None] * jnp.ones((count, 6, 6, 1))
    return keys, jnp.arange(count), images, jnp.eye(count)


@pytest.mark.parametrize(
    ("augmentation", "mixed_up", "cut"),
    [
        (Augmentation(flip=False), [], []),
        (Augmentation(flip=False, mixup_alpha=0.5), range(8), []),
        (Augmentation(flip=False, cutmix=True), [], range(8)),
        (Augmentation(flip=False, mixup_alpha=0.5, cutmix=True), [0, 1, 4, 5], [2, 3, 6, 7]),
    ],
)
def test_neighbors_mix_and_labels_follow(key, augmentation, mixed_up, cut):
    inputs = batch(key)
    images, targets = jax.jit(lambda *args: augment_batch(augmentation, *args, **UNIT))(*inputs)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    for index in range(8):
        partner = index ^ 1
        share = float(targets[index, index])
        assert targets[index, partner] == pytest.approx(1 - share)
        mean = share * (index + 1) + (1 - share) * (partner + 1)
        assert float(images[index].mean()) == pytest.approx(mean, rel=1e-5)
        values = np.unique(images[index])
        if index in mixed_up:
            assert len(values) == 1
        elif index in cut:
            assert set(values) <= {index + 1.0, partner + 1.0}
        else:
            assert (share, set(values)) == (1, {index + 1.0})


def test_an_odd_batch_cannot_be_mixed(key):
    with pytest.raises(ValueError, match="each device has 3 images"):
        augment_batch(Augmentation(cutmix=True), *batch(key, 3), **UNIT)


PIXELS = dict(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
EVERYTHING = dict(
    mixup_alpha=0.2, cutmix=True, randaugment_layers=2, randaugment_level=10, erase_probability=0.5
)


def byte_batch(key, count=8, shape=(12, 10, 3)):
    images = jax.random.bits(key, (count, *shape), jnp.uint8)
    return jax.random.split(key, count), jnp.arange(count), images, jnp.eye(count)


def run(augmentation, inputs, pixels=PIXELS):
    return jax.jit(lambda *args: augment_batch(augmentation, *args, **pixels))(*inputs)


def test_by_default_images_are_normalized_and_flipped(key):
    keys, _, images, targets = inputs = byte_batch(key)
    out, same_targets = run(Augmentation(), inputs)
    expected = jax.vmap(random_flip)(
        stage_keys(keys, "flip"), normalize(images, PIXELS["mean"], PIXELS["std"])
    )
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(same_targets, targets)
    plain, _ = run(Augmentation(flip=False), inputs)
    flipped = (np.asarray(out) != np.asarray(plain)).any(axis=(1, 2, 3))
    assert 0 < flipped.sum() < 8


def test_the_paper_mixes_bytes_then_augments_what_is_rounded_down(key):
    keys, _, _, _ = inputs = byte_batch(key)
    options = EVERYTHING | dict(erase_probability=0.0)
    raw = dict(mean=(0.0,), std=(1 / 255,))
    mixed, _ = run(Augmentation(**options | dict(randaugment_layers=0)), inputs, raw)
    assert (np.asarray(mixed) % 1 != 0).any()
    out, _ = run(Augmentation(**options), inputs, raw)
    one = lambda pair: randaugment(*pair, layers=2, level=10)
    # Normalization by 255 and back moves bytes by less than the guard.
    as_bytes = jnp.floor(mixed + 1e-3).astype(jnp.uint8)
    expected = jax.jit(lambda *pair: jax.lax.map(one, pair))(
        stage_keys(keys, "randaugment"), as_bytes
    )
    np.testing.assert_allclose(out, expected.astype(jnp.float32), atol=1e-3)


def test_pixels_in_float32_overshoot_into_randaugment_as_clipped_bytes(key):
    keys, indices, _, targets = byte_batch(key, 2)
    images = jnp.asarray([-20.0, 300.0])[:, None, None, None] * jnp.ones((2, 4, 4, 3))
    augmentation = Augmentation(flip=False, randaugment_layers=1, randaugment_level=5)
    out, _ = run(augmentation, (keys, indices, images, targets), UNIT)
    clipped = jnp.clip(images, 0, 255).astype(jnp.uint8)
    expected, _ = run(augmentation, (keys, indices, clipped, targets), UNIT)
    np.testing.assert_array_equal(out, expected)


def test_normalized_images_are_mixed_where_the_order_says_so(key):
    """Mixing and normalizing commute but for rounding, RandAugment aside."""
    inputs = byte_batch(key)
    outs = [
        run(Augmentation(mixup_alpha=0.2, cutmix=True, order=order), inputs)[0]
        for order in (NFNET_ORDER, NF_REGNET_ORDER)
    ]
    np.testing.assert_allclose(*outs, rtol=1e-5, atol=1e-5)
    assert (outs[0] != outs[1]).any()


def test_stages_draw_independently_of_each_other(key):
    """Turning one stage on does not change what another draws."""
    inputs = byte_batch(key)

    def weights(**options):  # only what they take is compiled
        draw = lambda *args: augment_batch(Augmentation(**options), *args, **PIXELS)[1]
        return np.asarray(jax.jit(draw)(*inputs))

    mixed = weights(flip=False, mixup_alpha=0.2, cutmix=True)
    np.testing.assert_array_equal(weights(flip=True, **EVERYTHING), mixed)
    erased = lambda **options: np.asarray(run(Augmentation(**options), inputs)[0]) == 0
    alone = erased(flip=False, erase_probability=0.5)
    assert 0 < alone.all(axis=-1).any(axis=(1, 2)).sum() < 8
    np.testing.assert_array_equal(erased(flip=True, erase_probability=0.5), alone)
    keys = inputs[0]
    stages = ("flip", "randaugment", "mix", "normalize", "erase")
    drawn = [jax.random.key_data(stage_keys(keys, stage)) for stage in stages]
    assert len(np.unique(np.concatenate([*drawn, jax.random.key_data(keys)]), axis=0)) == 48


@pytest.mark.parametrize("shape", [(20, 20, 1), (24, 9, 3)])
def test_erased_boxes_are_whole_and_of_the_sizes_of_the_paper(key, shape):
    height, width, _ = shape
    erase = jax.jit(jax.vmap(lambda key: random_erase(key, jnp.ones(shape), 1.0)))
    out = np.asarray(erase(jax.random.split(key, 500)))
    touched = []
    for image in out:
        assert set(np.unique(image)) == {0.0, 1.0}  # something is erased, and not all
        rows, columns = (image[..., 0] == 0).any(axis=1), (image[..., 0] == 0).any(axis=0)
        np.testing.assert_array_equal(
            image == 0, (rows[:, None] & columns)[..., None] & np.ones(shape, bool)
        )
        high, wide = rows.sum(), columns.sum()
        assert np.diff(np.flatnonzero(rows)).max(initial=1) == 1
        # A side is rounded to a pixel: the box before it may be half a pixel off each way.
        assert (high - 0.5) * (wide - 0.5) <= height * width / 3
        assert (high + 0.5) * (wide + 0.5) >= height * width * 0.02
        assert (high - 0.5) / (wide + 0.5) <= 1 / 0.3
        assert (high + 0.5) / (wide - 0.5) >= 0.3
        touched.append(image[..., 0] == 0)
    # Every pixel is reached, those of the corners too.
    assert np.any(touched, axis=0).all()


def test_the_given_share_of_images_is_erased_and_none_that_no_box_fits(key):
    erase = jax.jit(jax.vmap(lambda key: random_erase(key, jnp.ones((16, 16, 1)), 0.25)))
    share = np.mean((np.asarray(erase(jax.random.split(key, 2000))) == 0).any(axis=(1, 2, 3)))
    assert abs(share - 0.25) < 0.04  # four standard deviations
    low = jnp.ones((1, 50, 1))  # every box would be as high as the image, or of no height
    whole = jax.vmap(lambda key: random_erase(key, low, 1.0))(jax.random.split(key, 8))
    np.testing.assert_array_equal(whole, 1)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (("flip", "rotate", "normalize"), r"Unknown stages \['rotate'\]"),
        (("flip", "normalize", "normalize"), r"Stages \['normalize'\] are more than once"),
        (("flip", "mix"), r"Stages \['normalize'\] are on and not in order"),
        (("normalize",), r"Stages \['flip'\] are on and not in order"),
        (("flip", "normalize", "randaugment"), "'randaugment' must come before 'normalize'"),
        (("flip", "erase", "normalize"), "'erase' must come after 'normalize'"),
    ],
)
def test_orders_that_cannot_be_are_refused(order, message):
    with pytest.raises(ValueError, match=message):
        _check_order(order, Augmentation().active)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(order=("flip", "normalize", "randaugment")), "must come before"),
        (dict(randaugment_layers=1, order=NF_REGNET_ORDER), "add them, or set their parameters"),
        (dict(mixup_alpha=-0.1), "mixup_alpha >= 0"),
        (dict(erase_probability=1.5), "erase_probability of 0 to 1"),
        (dict(randaugment_level=25), "a level of 0 to 20"),
    ],
)
def test_augmentations_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def test_a_mesh_changes_no_bit_of_the_whole_and_needs_no_collective(key):
    augmentation = Augmentation(**EVERYTHING)
    inputs = byte_batch(key, 16)
    expected = run(augmentation, inputs)
    mesh = jax.make_mesh((8,), ("data",))
    inputs = jax.device_put(inputs, jax.NamedSharding(mesh, P("data")))
    local = lambda *args: augment_batch(augmentation, *args, **PIXELS)
    sharded = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P("data")))
    compiled = sharded.lower(*inputs).compile()
    for ours, theirs in zip(compiled(*inputs), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    text = compiled.as_text()
    assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all", "permute("))
