"""Crops to train on, and the views of evaluation, against those who published them."""

import importlib.util
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from nfx.data import AsStored, CentreView, ImageError, ImageTransform, RandomCrop, VIEWS
from nfx.data._crops import Box, central_square, sample_crop, stored_box, TURNS, upright
from nfx.data._resize import resize_bicubic
from nfx.data._transforms import _draft_scale
from nfx.models import list_models, model_card, model_variant
from tests.pictures import bad_files, decibels, encode, noise, oriented, photo
from tests.reference import load_golden


BAD = bad_files()
PHOTO = photo(0, 375, 500)
PHOTO_FILE = encode(PHOTO, "JPEG", quality=90)


def rng(seed=0):
    return np.random.default_rng(seed)


def cut(pixels, box):
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]


# Crops.


@settings(max_examples=400, deadline=None)
@given(
    height=st.integers(1, 1500),
    width=st.integers(1, 1500),
    area=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    aspect=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(sorted).map(tuple),
    seed=st.integers(0, 2**32),
)
def test_crops_keep_their_bounds(height, width, area, aspect, seed):
    box = sample_crop(rng(seed), height, width, area=area, aspect=aspect)
    assert box == sample_crop(rng(seed), height, width, area=area, aspect=aspect)
    if box is None:
        return
    assert 0 <= box.top <= height - box.height < height
    assert 0 <= box.left <= width - box.width < width
    assert box[2:] != (height, width)
    share = box.height * box.width / (height * width)
    assert max(area[0], 0.1) <= share * (1 + 1e-12)
    assert share <= area[1] * (1 + 1e-12)
    assert round(box.height * aspect[0]) <= box.width <= round(box.height * aspect[1])


def simulate(count, height, width):
    """Heights and widths by the rule without rounding, one draw after the other rejected."""
    g = rng(1)
    aspect = g.uniform(3 / 4, 4 / 3, count)
    low = np.sqrt(0.08 * height * width / aspect)
    high = np.minimum(np.minimum(np.sqrt(height * width / aspect), width / aspect), height)
    heights = g.uniform(low, high)
    kept = heights**2 * aspect >= 0.1 * height * width
    return np.stack([heights, heights * aspect])[:, kept]


@pytest.mark.parametrize(("height", "width"), [(3000, 4000), (4000, 3000), (3500, 3500)])
def test_crops_are_distributed_as_simulated(height, width):
    g = rng(0)
    boxes = np.array([sample_crop(g, height, width) for _ in range(20_000)], float).T
    top, left, *sizes = boxes
    expected = simulate(1_000_000, height, width)
    whole = np.array([[height], [width]])

    def facts(sizes):  # area, its square, aspect, height
        share, ratio = np.prod(sizes / whole, axis=0), sizes[1] / sizes[0]
        return np.stack([share, share**2, ratio, sizes[0] / height])

    found, reference = facts(np.stack(sizes)), facts(expected)
    error = reference.std(axis=1) / np.sqrt(found.shape[1])
    assert np.abs((found.mean(axis=1) - reference.mean(axis=1)) / error).max() < 4
    for offset, size, side in ((top, sizes[0], height), (left, sizes[1], width)):
        room = side - size
        share = offset[room > 50] / room[room > 50]  # uniform: mean 1/2, variance 1/12
        assert abs(share.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(share))
        assert abs(share.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / len(share))


@pytest.mark.parametrize(("height", "width"), [(1, 1000), (1000, 1), (1, 1), (20, 1000)])
def test_where_no_crop_fits_there_is_none(height, width):
    assert all(sample_crop(rng(seed), height, width) is None for seed in range(50))


def test_small_shares_are_never_accepted():
    boxes = [sample_crop(rng(seed), 300, 300, area=(0.01, 0.09)) for seed in range(100)]
    assert boxes == [None] * 100


def test_the_central_square_is_the_official_one():
    assert central_square(480, 640, 224, 256) == (30, 110, 420, 420)
    assert central_square(101, 50, 32, 64) == (38, 13, 25, 25)
    assert central_square(1, 1000, 224, 256) == (0, 500, 1, 1)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), orientation=st.integers(1, 8))
def test_a_box_is_found_where_it_is_stored(data, orientation):
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    stored, turn = noise(0, height, width), TURNS[orientation]
    seen = upright(stored, turn)
    rows, columns = data.draw(st.integers(1, len(seen))), data.draw(st.integers(1, seen.shape[1]))
    top = data.draw(st.integers(0, len(seen) - rows))
    left = data.draw(st.integers(0, seen.shape[1] - columns))
    box = Box(top, left, rows, columns)
    found = upright(cut(stored, stored_box(box, turn, height, width)), turn)
    np.testing.assert_array_equal(found, cut(seen, box))


# Resizing without antialiasing. float32 sums of four products of bytes: a few units in the last
# place of 255.
EXACT = dict(rtol=0, atol=1e-4)


def test_bicubic_pixels_are_those_of_the_golden_file():
    golden = load_golden("augment_tf")
    found = resize_bicubic(golden["eval_image"][5:50, 10:60], 32, 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, golden["bicubic/crop5:50,10:60->32x32"], **EXACT)


@pytest.mark.parametrize("shape", [(9, 13), (64, 40), (1, 1), (1, 30)])
def test_a_window_is_a_part_of_the_whole(shape):
    pixels, window = noise(0, *shape), Box(3, 5, 7, 11)
    whole = resize_bicubic(pixels, 20, 30)
    np.testing.assert_array_equal(resize_bicubic(pixels, 20, 30, window), cut(whole, window))


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (200, 7)])
def test_what_is_even_stays_so_to_the_border(size):
    even = np.full((9, 13, 3), 200, np.uint8)
    np.testing.assert_allclose(resize_bicubic(even, *size), 200, **EXACT)


def test_bicubic_edges_overshoot():
    edge = np.zeros((8, 8, 1), np.uint8)
    edge[:, 4:] = 255
    found = resize_bicubic(edge, 8, 31)
    assert found.max() > 265
    assert found.min() < -10


# Random crops.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_pillow_resizes_what_was_drawn(seed, channels):
    pixels = noise(1, 60, 90, channels)
    top, left, height, width = sample_crop(rng(seed), 60, 90)
    image = Image.fromarray(pixels.squeeze())
    expected = image.resize(
        (24, 24), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
    )
    transform = RandomCrop(24, channels)
    for given_image in (pixels, encode(pixels, "PNG")):
        found = transform(given_image, rng(seed))
        assert (found.shape, found.dtype) == (transform.shape, transform.dtype)
        np.testing.assert_array_equal(found.squeeze(), np.asarray(expected))


def test_when_the_crop_is_the_image_the_central_square_is_taken():
    pixels = noise(1, 64, 64)
    found = RandomCrop(32, area=(1, 1), aspect=(1, 1))(pixels, rng())
    box = (16, 16, 48, 48)  # of 64 pixels, 32 in 32 + 32
    expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC, box=box)
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1000, 3), (1000, 1, 1)])
def test_images_of_any_shape_have_crops(shape):
    pixels = np.full(shape, 77, np.uint8)
    for given_image in (pixels, encode(pixels, "PNG"), encode(pixels, "JPEG")):
        found = RandomCrop(16, shape[2])(given_image, rng())
        np.testing.assert_array_equal(found, 77)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_crops_are_of_the_upright_image(orientation):
    crop = RandomCrop(32)
    expected = crop(PHOTO, rng(3)).astype(int)
    found = crop(oriented(PHOTO, orientation, "PNG"), rng(3))
    # Pillow sums rows first and rounds to bytes, and here rows may be the columns: two roundings,
    # each of at most a half times the kernel's sum of absolute weights, 1.3, on either side.
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= (0 if orientation < 5 else 2)
    assert difference.mean() < 0.3
    for decoder in ("pillow", "opencv"):
        file = oriented(PHOTO, orientation, "JPEG", quality=95, subsampling=0)
        assert decibels(RandomCrop(128, decoder=decoder)(file, rng(3)),
                        RandomCrop(128)(PHOTO, rng(3))) > 38  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_both_decoders_see_the_same(mode, channels):
    file = PHOTO_FILE if mode == "RGB" else encode(Image.fromarray(PHOTO).convert("L"), "JPEG")
    pillow, opencv = (RandomCrop(224, channels, decoder=name) for name in ("pillow", "opencv"))
    for seed in range(12):
        found, expected = opencv(file, rng(seed)), pillow(file, rng(seed))
        assert (found.shape, found.dtype) == (opencv.shape, opencv.dtype)
        assert 38 < decibels(found, expected) < np.inf  # infinite if OpenCV was not asked


ODD = {
    "png": encode(PHOTO, "PNG"),
    "inks": encode(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
    "more after the end": PHOTO_FILE + bytes(8),
    "much larger": encode(photo(1, 900, 1200), "JPEG"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_the_same_under_both_decoders(name):
    found = RandomCrop(128, decoder="opencv")(ODD[name], rng(1))
    np.testing.assert_array_equal(found, RandomCrop(128)(ODD[name], rng(1)))


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_all(name, decoder):
    data, reason = BAD[name]
    for transform in (RandomCrop(32, decoder=decoder), CentreView(8), AsStored((40, 50, 3))):
        with pytest.raises(ImageError, match=reason):
            transform(data, rng())


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_large_files_are_decoded_smaller(monkeypatch, channels):
    pixels = photo(2, 1500, 2000)
    file = encode(pixels, "JPEG", quality=90)
    crop = RandomCrop(48, channels)
    drafted = [crop(file, rng(seed)) for seed in range(6)]
    monkeypatch.setattr("nfx.data._transforms._SPARE", 10**6)
    for seed, found in enumerate(drafted):
        assert 45 < decibels(found, crop(file, rng(seed))) < np.inf
    turned = oriented(pixels, 6, "JPEG", quality=90)
    monkeypatch.undo()
    assert decibels(crop(turned, rng(0)), crop(file, rng(0))) > 38


@pytest.mark.parametrize(
    ("side", "scale"), [(15, 1), (31, 1), (32, 2), (63, 2), (64, 4), (128, 8), (999, 8)]
)
def test_twice_the_pixels_are_kept(side, scale):
    with Image.open(io.BytesIO(PHOTO_FILE)) as image:
        assert _draft_scale(image, Box(0, 0, side, 1000), 8) == scale
        assert _draft_scale(image, Box(0, 0, 1000, side), 8) == scale
    assert _draft_scale(Image.new("RGB", (1, 1)), Box(0, 0, side, side), 8) == 1


def test_without_opencv_the_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    hidden = lambda name: None if name == "cv2" else find(name)
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nfx\[fast\]'"):
        RandomCrop(8, decoder="opencv")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCrop(0), "size=0"),
        (lambda: RandomCrop(8, 2), "channels=2"),
        (lambda: RandomCrop(8, area=(0.5, 0.1)), r"area=\(0.5, 0.1\)"),
        (lambda: RandomCrop(8, area=(0, 1)), r"area=\(0, 1\)"),
        (lambda: RandomCrop(8, aspect=(0, 1)), r"aspect=\(0, 1\)"),
        (lambda: RandomCrop(8, decoder="magick"), "decoder='magick'"),
        (lambda: CentreView(8, rule="tim"), "no view 'tim'.*official_squash, official_crop"),
        (lambda: CentreView(8, crop=1.1), "crop=1.1"),
        (lambda: CentreView(8, crop=0.0), "crop=0.0"),
        (lambda: CentreView(-1), "size=-1"),
    ],
)
def test_arguments_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


TRANSFORMS = [
    RandomCrop(40),
    RandomCrop(40, decoder="opencv"),
    *(CentreView(40, rule=rule, crop=0.8) for rule in VIEWS),
    AsStored((375, 500, 3)),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_transforms_are_values_for_threads_and_processes(transform):
    assert isinstance(transform, ImageTransform)
    copy = pickle.loads(pickle.dumps(transform))
    assert copy == transform
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda seed: copy(PHOTO_FILE, rng(seed)), range(8)))
    for seed, pixels in enumerate(found):
        assert (pixels.shape, pixels.dtype) == (transform.shape, transform.dtype)
        np.testing.assert_array_equal(pixels, transform(PHOTO_FILE, rng(seed)))
    differ = any((pixels != found[0]).any() for pixels in found)
    assert differ == isinstance(transform, RandomCrop)


# What is stored.


def test_pixels_stay_as_they_are_stored():
    pixels, gray = noise(0, 5, 7), noise(0, 5, 7, 1)
    assert AsStored((5, 7, 3))(pixels, rng()) is pixels
    np.testing.assert_array_equal(AsStored((5, 7, 3))(encode(pixels, "PNG"), rng()), pixels)
    np.testing.assert_array_equal(AsStored((5, 7, 1))(encode(gray, "PNG"), rng()), gray)


@pytest.mark.parametrize(
    "image", [noise(0, 7, 5), noise(0, 5, 7, 1), np.zeros((5, 7, 3)), encode(noise(0, 6, 7), "PNG")]
)
def test_other_shapes_are_not_as_stored(image):
    with pytest.raises(ImageError, match=r"not uint8 of shape \(5, 7, 3\)"):
        AsStored((5, 7, 3))(image, rng())


@pytest.mark.parametrize("transform", [RandomCrop(8), CentreView(8)])
@pytest.mark.parametrize(
    "pixels", [np.zeros((5, 7)), np.zeros((5, 7, 3)), noise(0, 5, 7, 4), noise(0, 5, 0)]
)
def test_pixels_of_other_kinds_are_refused(transform, pixels):
    with pytest.raises(ImageError, match=r"its pixels are|it is 0 by 5"):
        transform(pixels, rng())


# Evaluation.


@pytest.mark.parametrize("size", [32, 41])
@pytest.mark.parametrize(
    ("mode", "rule", "crop"),
    [
        ("crop_resize", "official_crop", None),
        ("resize_crop_32", "official_squash", None),
        ("resize_crop_0.9", "official_squash", 0.9),
    ],
)
def test_official_views_are_those_of_the_golden_file(mode, rule, crop, size):
    golden = load_golden("augment_tf")
    view = CentreView(size, 3, rule, crop or size / (size + 32))
    found = view(encode(golden["eval_image"], "PNG"), rng())
    np.testing.assert_allclose(found, golden[f"eval/{mode}/{size}"], **EXACT)


def test_normalized_pixels_are_those_of_the_golden_file():
    golden = load_golden("augment_tf")
    mean, std = 255 * np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    expected = golden["normalized_eval"]
    errors = [
        np.abs((CentreView(32, 3, rule, 0.5)(golden["eval_image"], rng()) - mean) / std - expected)
        for rule in ("official_squash", "official_crop")
    ]
    assert min(error.max() for error in errors) < 1e-5


def test_timm_sees_the_same():
    golden = load_golden("timm_views")
    rules = {"center": "timm", "squash": "timm_squash"}
    cases = [name for name in golden if name.startswith("view/")]
    assert len(cases) == 30
    for name in cases:
        _, image, mode, size, crop = name.split("/")
        view = CentreView(int(size), 3, rules[mode], float(crop))
        np.testing.assert_array_equal(view(golden[f"image/{image}"], rng()), golden[name], name)


def test_the_official_share_is_32_pixels_more_at_any_size():
    """So an image of that size is not resized, and its middle is seen as it is."""
    for size in [*range(1, 600, 7), 68, 69, 83]:  # of those, the quotient comes out below it
        strip = noise(size, size + 32, size + 32, 1)
        view = CentreView(size, 1, "official_squash", size / (size + 32))
        np.testing.assert_array_equal(view(strip, rng()), strip[16:-16, 16:-16])


@pytest.mark.parametrize("rule", VIEWS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 1), (400, 2, 3)])
def test_views_take_any_shape_and_channels(rule, shape):
    for channels in (1, 3):
        view = CentreView(24, channels, rule, 0.9)
        found = view(np.full(shape, 99, np.uint8), rng())
        assert (found.shape, found.dtype) == (view.shape, view.dtype)
        np.testing.assert_allclose(found, 99, **EXACT)


def test_a_line_of_pixels_does_not_fill_the_memory():
    """Brought to a height of 224 it would have a billion pixels."""
    with pytest.raises(ImageError, match="as it would be resized, it has more than"):
        CentreView(224, 1, "timm", 1.0)(np.zeros((1, 20_000, 1), np.uint8), rng())


def test_every_card_names_its_view():
    cards = {name: model_card(name) for name in list_models()}
    assert {card.view for card in cards.values()} == set(VIEWS)
    assert cards["nfnet_f0"].view == "official_squash"
    assert cards["nf_resnet50"].view == cards["nf_regnet_b0"].view == "official_crop"
    assert cards["timm/dm_nfnet_f0"].view == "timm_squash"
    for name in ("timm/eca_nfnet_l0", "timm/nf_resnet50", "nfnet_nano", "resnet50"):
        assert cards[name].view == "timm"
    for name, card in cards.items():
        if card.view.startswith("official"):
            size = model_variant(name).test_size
            assert card.crop == size / (size + 32)
