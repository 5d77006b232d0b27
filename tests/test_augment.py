import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfx.augment import (
    augment_batch,
    Augmentation,
    cutmix,
    cutmix_mask,
    mixup,
    normalize,
    random_flip,
)
from tests.reference import load_golden


@pytest.mark.parametrize("case", range(5))
def test_golden_cutmix_masks(case):
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


def test_normalisation_is_per_channel():
    image = jnp.asarray([[[0, 255, 51]]], jnp.uint8)
    out = normalize(image, (0.5, 0.5, 0.2), (0.5, 0.25, 1.0))
    np.testing.assert_allclose(out[0, 0], [-1, 2, 0], atol=1e-6)


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
def test_neighbours_mix_and_labels_follow(key, augmentation, mixed_up, cut):
    inputs = batch(key)
    images, targets = jax.jit(lambda *args: augment_batch(augmentation, *args))(*inputs)
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
        augment_batch(Augmentation(cutmix=True), *batch(key, 3))
