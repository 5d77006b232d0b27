"""RandAugment: the official operations to the bit, and the corrected ones to Pillow's."""

import functools as ft
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from PIL import Image, ImageEnhance, ImageOps

from nfx.augment import randaugment
from nfx.augment._geometry import cutout, FILL
from nfx.augment._randaugment import check_randaugment, OPERATIONS
from tests.reference import load_golden


GOLDEN = load_golden("augment_tf")
ARGUMENTS = json.loads(str(GOLDEN["op_args"]))


def golden_cases():
    return sorted({name[3:].partition("@")[0] for name in GOLDEN if name.startswith("op/")})


def arguments_of(rules, name, level, sign=1):
    return tuple(sign * x for x in OPERATIONS[rules][name].arguments(level))


def apply(rules, name, level, image, sign=1):
    return np.asarray(_jitted(rules, name, arguments_of(rules, name, level, sign))(image))


@ft.cache
def _jitted(rules, name, arguments):
    return jax.jit(lambda image: OPERATIONS[rules][name].apply(image, *arguments))


@pytest.mark.parametrize("name", golden_cases())
@pytest.mark.parametrize("level", [5, 10, 15])
def test_golden_operations_are_the_official_codes_to_the_bit(name, level):
    image = jnp.asarray(GOLDEN["image"])
    for sign, mark in ((1, ""), (-1, "-")):
        expected = GOLDEN.get(f"op/{name}@{level}{mark}")
        assert (expected is None) == (mark == "-" and not OPERATIONS["official"][name].signed)
        if expected is not None:
            np.testing.assert_array_equal(apply("official", name, level, image, sign), expected)


def test_levels_mean_what_they_do_in_the_official_code():
    for case, expected in ARGUMENTS.items():
        name, _, level = case.partition("@")
        sign = -1 if level.endswith("-") else 1
        arguments = arguments_of("official", name, int(level.rstrip("-")), sign)
        if name == "Solarize":
            expected = [expected[0] % 256]  # what its cast to a byte makes of the threshold
        elif name == "Cutout":
            expected = expected * 2
        assert list(arguments) == expected


def test_enhancements_at_level_5_change_nothing_and_solarize_inverts_at_level_10():
    image = jnp.asarray(GOLDEN["image"])
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        np.testing.assert_array_equal(apply("official", name, 5, image), image)
        assert (apply("official", name, 10, image) != image).any()
    np.testing.assert_array_equal(apply("official", "Solarize", 10, image), 255 - image)
    np.testing.assert_array_equal(apply("corrected", "Solarize", 10, image), image)
    np.testing.assert_array_equal(
        apply("official", "Solarize", 15, image), apply("official", "Solarize", 5, image)
    )


def enhanced(kind):
    return lambda image, level, sign: kind(image).enhance(level / 10 * 1.8 + 0.1)


def moved(matrix):
    def transform(image, level, sign):
        fill = (FILL,) * len(image.getbands()) if image.mode == "RGB" else FILL
        coefficients = matrix(sign * level / 10, *image.size)
        return image.transform(image.size, Image.Transform.AFFINE, coefficients, fillcolor=fill)

    return transform


def rotated(image, level, sign):
    fill = (FILL,) * 3 if image.mode == "RGB" else FILL
    return image.rotate(sign * (level / 10 * 30), fillcolor=fill)


def solarize_added(image, level, sign):
    added = min(128, int(level / 10 * 110))
    table = [min(255, i + added) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


PILLOW = {
    "AutoContrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "Equalize": lambda image, level, sign: ImageOps.equalize(image),
    "Invert": lambda image, level, sign: ImageOps.invert(image),
    "Rotate": rotated,
    "Posterize": lambda image, level, sign: ImageOps.posterize(image, int(level / 10 * 4)),
    "Solarize": lambda image, level, sign: ImageOps.solarize(image, min(256, int(25.6 * level))),
    "Color": enhanced(ImageEnhance.Color),
    "Contrast": enhanced(ImageEnhance.Contrast),
    "Brightness": enhanced(ImageEnhance.Brightness),
    "Sharpness": enhanced(ImageEnhance.Sharpness),
    "ShearX": moved(lambda m, width, height: (1, 0.3 * m, 0, 0, 1, 0)),
    "ShearY": moved(lambda m, width, height: (1, 0, 0, 0.3 * m, 1, 0)),
    "TranslateX": moved(lambda m, width, height: (1, 0, 0.45 * m * width, 0, 1, 0)),
    "TranslateY": moved(lambda m, width, height: (1, 0, 0, 0, 1, 0.45 * m * height)),
    "SolarizeAdd": solarize_added,
}


def pictures():
    """Noise, a smooth picture of few values, and one value; in color and gray, of odd sides."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:41, :54]
    smooth = np.stack([40 + 2 * y, 30 + 3 * x, 90 + y + x], axis=-1)
    color = [rng.integers(0, 256, (41, 54, 3)), smooth, np.full((41, 54, 3), 77)]
    return [jnp.asarray(image[..., :c], jnp.uint8) for image in color for c in (3, 1)]


def as_pillow(image):
    return Image.fromarray(np.asarray(image[..., 0] if image.shape[-1] == 1 else image))


@pytest.mark.parametrize("name", PILLOW)
def test_corrected_operations_are_pillows_to_the_bit(name):
    operation = OPERATIONS["corrected"][name]
    for level in (3, 10, 15):
        for sign in (1, -1)[: 1 + operation.signed]:
            for image in pictures():
                expected = np.asarray(PILLOW[name](as_pillow(image), level, sign), int)
                ours = apply("corrected", name, level, image, sign)
                np.testing.assert_array_equal(ours, expected.reshape(image.shape))


def test_auto_contrast_is_pillows_but_for_bytes_that_are_whole_in_one_precision():
    """Pillow scales in float64, where a whole number may come out just below, as in float32."""
    differences = []
    for low in (0, 44, 101):
        for high in range(low + 1, 256, 4):  # 44 to 89 is the worst of all: 15 of 46 bytes
            image = jnp.clip(jnp.arange(256), low, high).astype(jnp.uint8)[None, :, None]
            expected = np.asarray(PILLOW["AutoContrast"](as_pillow(image), 10, 1), int)
            ours = apply("corrected", "AutoContrast", 10, image)[..., 0]
            differences.append(np.abs(ours - expected)[0, low : high + 1])
    differences = np.concatenate(differences)
    assert differences.max() == 1
    assert differences.mean() < 0.02


@pytest.mark.parametrize(
    ("shape", "mean"), [((15, 17, 3), 0), ((16, 16, 1), 1), ((257, 300, 3), 255)]
)
def test_the_official_contrast_starts_from_the_count_of_pixels(shape, mean):
    image = jnp.full(shape, 40, jnp.uint8)
    expected = np.clip(mean + 1.9 * (40 - mean), 0, 255).astype(np.uint8)
    assert set(np.unique(apply("official", "Contrast", 10, image))) == {expected}


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.5, 0.25), (0.999, 0.999)])
def test_cutout_fills_its_box_and_nothing_else(place):
    image = jnp.asarray(GOLDEN["image"]) // 2  # no gray in it
    out = np.asarray(cutout(image, 7, 10, jnp.asarray(place)))
    height, width, _ = image.shape
    y, x = int(place[0] * height), int(place[1] * width)
    expected = np.array(image)
    expected[max(y - 7, 0) : y + 7, max(x - 10, 0) : x + 10] = FILL
    np.testing.assert_array_equal(out, expected)
    if place == (0.5, 0.25):
        assert np.sum(out == FILL) == 14 * 20 * 3


def test_corrected_cutout_and_translation_scale_with_the_image():
    assert OPERATIONS["official"]["Cutout"].arguments(10) == (40, 40)
    cut = OPERATIONS["corrected"]["Cutout"]
    for level, shape, pixels in (
        (10, (224, 224, 1), 80 * 80),
        (10, (112, 56, 1), 40 * 20),
        (7, (224, 448, 1), 56 * 112),
    ):
        out = cut.apply(jnp.zeros(shape, jnp.uint8), *cut.arguments(level), jnp.full(2, 0.5))
        assert int(jnp.sum(out == FILL)) == pixels
    for width in (20, 40):
        moved = apply("corrected", "TranslateX", 10, jnp.zeros((4, width, 1), jnp.uint8))
        assert np.sum(moved == FILL) == 4 * width * 45 // 100


@pytest.fixture
def counting(monkeypatch):
    """Operations that write their number at the next free place; the first byte counts them."""

    def write(number):
        def operation(image, *arguments):
            count = image[0, 0, 0]
            flat = image.ravel().at[count.astype(jnp.int32) + 1].set(number)
            return flat.at[0].add(1).reshape(image.shape)

        return operation

    table = {
        name: operation._replace(apply=write(number))
        for number, (name, operation) in enumerate(OPERATIONS["official"].items())
    }
    monkeypatch.setattr("nfx.augment._randaugment.OPERATIONS", {"official": table})


def test_every_layer_draws_one_of_sixteen_operations_alike(counting, key):
    blank = jnp.zeros((4, 4, 1), jnp.uint8)
    draw = lambda key: randaugment(key, blank, layers=4, level=5).ravel()
    written = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(key, 1000)))
    assert (written[:, 0] == 4).all()
    assert (written[:, 5:] == 0).all()
    for layer in written[:, 1:5].T:
        counts = np.bincount(layer, minlength=16)
        # 62.5 each are expected: a chi-squared of 15 degrees above 45 has a chance of 1e-4.
        assert len(counts) == 16
        assert np.sum((counts - 62.5) ** 2 / 62.5) < 45
    assert len(np.unique(written[:, 1:5], axis=0)) > 950  # the layers draw independently


def test_both_signs_are_drawn_and_only_where_there_is_one(monkeypatch, key):
    told = lambda image, *arguments: image.at[0, 0, 0].set(1 if arguments[0] > 0 else 2)
    blank = jnp.zeros((2, 2, 1), jnp.uint8)
    for name, expected in (("Rotate", {1, 2}), ("Posterize", {1})):
        table = {name: OPERATIONS["official"][name]._replace(apply=told)}
        monkeypatch.setattr("nfx.augment._randaugment.OPERATIONS", {"official": table})
        draw = lambda key: randaugment(key, blank, layers=1, level=5)[0, 0, 0]
        assert set(np.asarray(jax.vmap(draw)(jax.random.split(key, 32))).tolist()) == expected


def mapped(keys, images):
    draw = lambda pair: randaugment(*pair, layers=4, level=10)
    return jax.lax.map(draw, (keys, images))


@pytest.mark.parametrize("mode", ["Auto", "Explicit"])
def test_a_mesh_changes_no_bit_and_needs_no_collective(key, mode):
    images = jax.random.bits(key, (16, 20, 24, 3), jnp.uint8)
    keys = jax.random.split(key, 16)
    expected = jax.jit(mapped)(keys, images)
    assert (np.asarray(expected) != np.asarray(images)).any(axis=(1, 2, 3)).sum() > 12
    axis_type = getattr(jax.sharding.AxisType, mode)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    sharded = jax.jit(jax.shard_map(mapped, mesh=mesh, in_specs=P("data"), out_specs=P("data")))
    place = lambda x: jax.device_put(x, jax.NamedSharding(mesh, P("data")))
    compiled = sharded.lower(place(keys), place(images)).compile()
    np.testing.assert_array_equal(compiled(place(keys), place(images)), expected)
    text = compiled.as_text()
    assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all", "permute("))
    # The operations stay branches, of which one is run: one for each operation and sign.
    (branches,) = [line for line in text.splitlines() if " conditional(" in line]
    assert branches.partition("branch_computations={")[2].partition("}")[0].count("%") == 21


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(level=21), "a level of 0 to 20, got layers=2, level=21"),
        (dict(layers=-1), "layers >= 0"),
    ],
)
def test_what_cannot_be_is_refused(key, options, message):
    with pytest.raises(ValueError, match=message):
        randaugment(key, jnp.zeros((4, 4, 3), jnp.uint8), **dict(layers=2, level=5) | options)


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match="Unknown RandAugment rules 'timm': choose among"):
        check_randaugment(2, 5, "timm")


def test_other_channels_are_refused(key):
    with pytest.raises(ValueError, match="3 channels"):
        randaugment(key, jnp.zeros((4, 4, 4), jnp.uint8), layers=1, level=5)
