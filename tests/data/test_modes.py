"""Every kind of picture that Pillow knows: the right pixels, or one line."""

import logging
import struct
import zlib

import numpy as np
import pytest
from image_files import PICTURES, fails, png, write_files
from PIL import Image

from kdiff_jax.data.images import load

COLOUR = (200, 100, 40)
GREY = round(0.299 * 200 + 0.587 * 100 + 0.114 * 40)


def half_transparent(mode):
    """Left half a colour, opaque; right half the same colour, transparent."""
    image = Image.new("RGBA", (8, 8), (*COLOUR, 255))
    image.paste((*COLOUR, 0), (4, 0, 8, 8))
    if mode == "P":
        palette = Image.new("P", (8, 8), 1)
        palette.putpalette([1, 2, 3, *COLOUR, 9, 9, 9])
        palette.paste(2, (4, 0, 8, 8))
        palette.info["transparency"] = 2
        return palette
    if mode in ("L", "RGB"):  # one colour of the picture is transparent
        image = image.convert(mode)
        hidden = 7 if mode == "L" else (7, 7, 7)
        image.paste(hidden, (4, 0, 8, 8))
        image.info["transparency"] = hidden
        return image
    return image.convert(mode)


@pytest.mark.parametrize("background", ["white", "black", "#102030"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_pixels_that_nobody_sees_are_not_trained_on(tmp_path, mode, background, caplog):
    caplog.set_level(logging.INFO, logger="kdiff_jax")
    image = half_transparent(mode)
    options = {k: v for k, v in image.info.items() if k == "transparency"}
    path = write_files(tmp_path, {"a.png": png(image, **options)})
    images = load("folder", path=path, background=background)
    left, right = images.in_memory[0, :, :4], images.in_memory[0, :, 4:]
    below = {"white": [255] * 3, "black": [0] * 3, "#102030": [16, 32, 48]}[background]
    if mode in ("L", "LA"):
        assert images.shape[2] == 1
        weights = [0.299, 0.587, 0.114]
        assert (left == GREY).all() and (right == round(np.dot(weights, below))).all()
    else:
        assert (left == COLOUR).all() and (right == below).all()
    assert f"drawn on data.background={background}" in caplog.messages[0]


def test_half_transparent_pixels_are_mixed(tmp_path):
    image = Image.new("RGBA", (8, 8), (*COLOUR, 51))  # 51/255 = 0.2
    path = write_files(tmp_path, {"a.png": png(image)})
    found = load("folder", path=path, background="black").in_memory[0, 0, 0]
    assert found.tolist() == [40, 20, 8]


def test_an_opaque_picture_stays_as_it_is(tmp_path):
    opaque = np.dstack([PICTURES[0], np.full((8, 8), 255, np.uint8)])
    path = write_files(tmp_path, {"a.png": png(opaque)})
    np.testing.assert_array_equal(load("folder", path=path).in_memory[0], PICTURES[0])


def test_a_background_that_is_no_colour(tmp_path):
    path = write_files(tmp_path, {"a.png": png(PICTURES[0])})
    error = fails("background='wite': no", name="folder", path=path, background="wite")
    assert error.exit_code == 2
    fails("data.background=black: data 'digits' has", name="digits", background="black")


@pytest.mark.parametrize(
    "mode, format, colour, expected",
    [
        ("1", "PNG", 1, [255]),
        ("L", "TIFF", 77, [77]),
        ("RGB", "TIFF", COLOUR, COLOUR),
        ("CMYK", "TIFF", (255, 0, 0, 0), [0, 255, 255]),  # cyan
        ("CMYK", "JPEG", (0, 0, 0, 0), [255, 255, 255]),  # no ink, not all of it
        ("YCbCr", "TIFF", (77, 128, 128), [77, 77, 77]),
        ("P", "GIF", 3, [9, 8, 7]),
        ("RGBX", "TIFF", (*COLOUR, 0), COLOUR),  # the last is no alpha
    ],
)
def test_modes_that_have_a_meaning_in_8_bits(tmp_path, mode, format, colour, expected):
    image = Image.new(mode, (8, 8), colour)
    if mode == "P":
        image.putpalette([0] * 9 + [9, 8, 7])
    files = {f"a.{format.lower()}": png(image, format)}
    found = load("folder", path=write_files(tmp_path, files)).in_memory
    assert found.shape[3] == len(expected)
    assert (found == np.array(expected, np.uint8)).all()


def rgb_png_of_16_bits():
    """Pillow writes none: the dark upper bytes are all that it would read."""

    def chunk(kind, body):
        total = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", total)

    rows = b"".join(b"\0" + bytes([1, 200] * 3 * 8) for _ in range(8))
    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        png(np.full((8, 8), 3000, np.uint16)),
        png(np.full((8, 8), 3000, np.uint16), "TIFF"),
        png(np.full((8, 8), 3000, np.int32), "TIFF"),
        png(np.full((8, 8), 0.5, np.float32), "TIFF"),
        rgb_png_of_16_bits(),
    ],
    ids=["png16", "tiff16", "tiff32", "float", "rgb16"],
)
def test_more_than_8_bits_are_refused(tmp_path, content):
    path = write_files(tmp_path, {"a.png": content})
    fails("a.png: more than 8 bits a channel", name="folder", path=path)


def test_a_bitmap_of_16_bits_a_pixel_has_less_than_8_a_channel(tmp_path):
    """Pillow writes none: the masks are of 5, 6 and 5 bits, the pixels of red."""
    masks = b"".join(m.to_bytes(4, "little") for m in (0xF800, 0x7E0, 0x1F))
    head = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 16, 3, 128, 0, 0, 0, 0) + masks
    body = (0xF800).to_bytes(2, "little") * 64
    start = b"BM" + struct.pack("<IHHI", 14 + 52 + 128, 0, 0, 14 + 52)
    path = write_files(tmp_path, {"a.bmp": start + head + body})
    assert (load("folder", path=path).in_memory == [255, 0, 0]).all()


def test_grey_beside_colour_and_the_way_out(tmp_path):
    grey = PICTURES[0, ..., 0]
    path = write_files(tmp_path, {"a.png": png(grey), "b.png": png(PICTURES[1])})
    advice = "a colour image in a set of grey .*--config.data.channels=3 or 1"
    fails(f"b.png: {advice}", name="folder", path=path)
    three = load("folder", path=path, channels=3).in_memory
    np.testing.assert_array_equal(three[0], np.repeat(grey[..., None], 3, axis=-1))
    np.testing.assert_array_equal(three[1], PICTURES[1])
    one = load("folder", path=path, channels=1).in_memory[..., 0]
    np.testing.assert_array_equal(one[0], grey)
    assert abs(one[1] - PICTURES[1] @ np.array([0.299, 0.587, 0.114])).max() <= 0.51


def test_channels_of_an_npz(tmp_path):
    np.savez(tmp_path / "grey.npz", images=PICTURES[..., 0])
    found = load("npz", path=f"{tmp_path}/grey.npz", channels=3).in_memory
    np.testing.assert_array_equal(found, np.repeat(PICTURES[..., :1], 3, axis=-1))
    np.savez(tmp_path / "colour.npz", images=PICTURES)
    found = load("npz", path=f"{tmp_path}/colour.npz", channels=1, size=4)
    assert found.shape == (4, 4, 1)
    fails("data.channels=2", name="npz", path=f"{tmp_path}/grey.npz", channels=2)
    assert load("digits", channels=3).shape == (8, 8, 3)
    fails(
        "data.channels=3: data 'mixture' has no keyword 'channels'",
        name="mixture",
        channels=3,
    )
