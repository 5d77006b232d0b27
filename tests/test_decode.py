"""Decoding: what is right in every kind of file, and what is refused."""

import io
import re
import warnings

import numpy as np
import pytest
from PIL import Image

from nfx.data import decode, ImageError
from tests.pictures import bad_files, encode, noise, oriented


BAD = bad_files()


def pixels_of(data, channels=3):
    image = decode(data, channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    return np.asarray(image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
    ],
)
def test_photos_are_seen_upright(form, options, orientation):
    blocks = noise(0, 2, 3).repeat(16, 0).repeat(16, 1)  # which JPEG keeps but for rounding
    found = pixels_of(oriented(blocks, orientation, form, **options))
    assert found.shape == blocks.shape
    tolerance = 2 if form == "JPEG" else 0
    np.testing.assert_allclose(found.astype(int), blocks, rtol=0, atol=tolerance)


def test_an_orientation_in_xmp_counts():
    blocks = noise(0, 2, 3).repeat(16, 0).repeat(16, 1)
    note = b'<rdf:Description tiff:Orientation="6"/>'
    found = pixels_of(encode(blocks, "JPEG", xmp=note))
    np.testing.assert_array_equal(found, np.rot90(pixels_of(encode(blocks, "JPEG")), -1))


@pytest.mark.parametrize("exif", [b"Exif\x00\x00", b"Exif\x00\x00nonsense", b"x" * 40])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_orientation_is_none(exif):
    blocks = noise(0, 2, 3).repeat(16, 0).repeat(16, 1)
    plain = encode(blocks, "JPEG")
    np.testing.assert_array_equal(pixels_of(encode(blocks, "JPEG", exif=exif)), pixels_of(plain))


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_inks_become_colors(form):
    inks = np.zeros((16, 64, 4), np.uint8)
    for place in range(4):
        inks[:, 16 * place : 16 * (place + 1), place] = 255
    image = Image.fromarray(inks, "CMYK")
    found = pixels_of(encode(image, form, **({"quality": 100} if form == "JPEG" else {})))
    expected = [[0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0]]
    np.testing.assert_allclose(found[8, 8::16].astype(int), expected, rtol=0, atol=2)


def test_gray_and_color_become_each_other():
    gray = noise(0, 5, 7, 1)
    np.testing.assert_array_equal(pixels_of(encode(gray, "PNG"), 1), gray[:, :, 0])
    np.testing.assert_array_equal(pixels_of(encode(gray, "PNG"), 3), gray.repeat(3, 2))
    color = noise(0, 5, 7)
    luma = color @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    np.testing.assert_allclose(pixels_of(encode(color, "PNG"), 1), luma, rtol=0, atol=0.51)


def test_palettes_are_looked_up():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    np.testing.assert_array_equal(pixels_of(encode(image, "PNG")), expected)
    np.testing.assert_array_equal(pixels_of(encode(image, "GIF")), expected)
    clear = encode(image, "PNG", transparency=1)
    np.testing.assert_array_equal(pixels_of(clear)[0, 1], [255, 255, 255])
    halves = encode(image, "PNG", transparency=bytes([255, 0, 128]))
    blend = np.rint((128 * np.array([70, 80, 90]) + 127 * 255) / 255)
    np.testing.assert_array_equal(pixels_of(halves)[0], [[10, 20, 30], [255] * 3, blend])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_drawing_on_a_transparent_ground_is_on_white(mode, form, channels):
    ink, alpha = np.zeros((1, 3), np.uint8), np.array([[0, 128, 255]], np.uint8)
    image = Image.merge(
        mode, [Image.fromarray(plane) for plane in [ink] * (len(mode) - 1) + [alpha]]
    )
    found = pixels_of(encode(image, form), channels)
    expected = np.array([255, 127, 0]) if channels == 1 else np.repeat([[255], [127], [0]], 3, 1)
    np.testing.assert_array_equal(found[0], expected)


DEEP = np.array([[0, 128, 129, 257, 32896, 65407, 65535]], np.uint16)
SCALED = [[0, 0, 1, 1, 128, 255, 255]]


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.fromarray(DEEP), "PNG"),
        encode(Image.fromarray(DEEP), "TIFF"),
        encode(Image.frombytes("I;16B", (7, 1), DEEP.astype(">u2").tobytes()), "TIFF"),
        b"P5 7 1 65535\n" + DEEP.astype(">u2").tobytes(),
    ],
    ids=["PNG", "TIFF", "big-endian TIFF", "PGM"],
)
def test_deep_gray_is_scaled_and_not_cut_off(data):
    np.testing.assert_array_equal(pixels_of(data, 1), SCALED)
    np.testing.assert_array_equal(pixels_of(data, 3), np.repeat(np.array(SCALED)[..., None], 3, 2))


def test_single_bits_are_black_and_white():
    bits = Image.fromarray(np.array([[True, False, True]]))
    assert bits.mode == "1"
    np.testing.assert_array_equal(pixels_of(encode(bits, "PNG"), 1), [[255, 0, 255]])
    np.testing.assert_array_equal(pixels_of(encode(bits, "TIFF"), 3)[0, :, 1], [255, 0, 255])


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("WEBP", {"lossless": True})])
def test_of_an_animation_the_first_frame_is_seen(form, options):
    red, blue = (Image.new("RGB", (8, 8), name) for name in ("red", "blue"))
    data = encode(red, form, save_all=True, append_images=[blue], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 2
    np.testing.assert_array_equal(pixels_of(data), np.asarray(red))


def test_progressive_files_hold_the_same():
    blocks = noise(0, 40, 50)
    plain, progressive = (encode(blocks, "JPEG", progressive=kind) for kind in (False, True))
    assert plain != progressive
    np.testing.assert_array_equal(pixels_of(progressive), pixels_of(plain))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_and_say_why(name, channels):
    data, reason = BAD[name]
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data, channels)
    assert not re.search(r"0x|BytesIO", str(caught.value))  # the same words every time


@pytest.mark.parametrize("side", [11, 30])  # less than twice too much, and more
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_too_many_pixels_are_refused_whatever_warnings_do(monkeypatch, side, action):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    pixels_of(encode(noise(0, 10, 10), "PNG"))
    refused = pytest.raises(ImageError, match="more than 100 pixels, Pillow's limit")
    with warnings.catch_warnings(action=action), refused:
        decode(encode(noise(0, side, side), "PNG"), 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    pixels_of(encode(noise(0, side, side), "PNG"))
