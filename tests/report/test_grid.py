"""Grids: every pixel where it belongs, large enough to read."""

import numpy as np
import pytest
from PIL import Image

from kdiff_jax.report import captions
from kdiff_jax.report.grid import image_grid, save_png, side_by_side


def _flat(*values, size=1, channels=1):
    values = np.array(values, np.uint8)[:, None, None, None]
    return np.broadcast_to(values, (len(values), size, size, channels)).copy()


def test_a_grid_by_hand():
    """Three one-pixel images in two columns, one white pixel around each."""
    grid = image_grid(_flat(10, 20, 30), num_cols=2, pad=1, scale=1)
    w = 255
    wanted = [
        [w, w, w, w, w],
        [w, 10, w, 20, w],
        [w, w, w, w, w],
        [w, 30, w, w, w],
        [w, w, w, w, w],
    ]
    np.testing.assert_array_equal(grid[..., 0], wanted)


def test_pixels_are_repeated_not_blended():
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    grid = image_grid(image, num_cols=1, pad=0)
    assert grid.shape == (48, 48, 3)
    np.testing.assert_array_equal(grid[3::6, 3::6], image[0])
    assert len(np.unique(grid.reshape(-1, 3), axis=0)) <= 64


@pytest.mark.parametrize("size, tile", [(8, 48), (28, 56), (32, 64), (64, 64)])
def test_a_tile_has_at_least_48_pixels(size, tile):
    assert image_grid(_flat(0, size=size), num_cols=1, pad=0).shape == (tile, tile, 1)


def test_fewer_images_than_columns_leave_no_empty_column():
    assert image_grid(_flat(1, 2), num_cols=10, pad=2, scale=1).shape == (5, 8, 1)


def test_teacher_stands_above_student_in_every_block():
    """Tiles are coloured (v, 0, 255), which no antialiased title is."""
    teacher, student = (_flat(*range(a, a + 5), channels=3) for a in (1, 101))
    for images in (teacher, student):
        images[..., 1:] = 0, 255
    picture = side_by_side(
        [("teacher", teacher), ("student", student)], num_cols=3, scale=10
    )
    is_tile = (picture[..., 1] == 0) & (picture[..., 2] == 255)

    def place(value):
        return np.argwhere(is_tile & (picture[..., 0] == value))[0]

    left = place(1)[1]
    order = picture[:, left, 0][is_tile[:, left]].tolist()
    assert list(dict.fromkeys(order)) == [1, 101, 4, 104]
    for value in range(1, 6):
        assert place(value)[1] == place(value + 100)[1]
        assert place(value)[0] < place(value + 100)[0]
    # Titles are written at the left of the tiles.
    assert (picture[:14, : left - 2] < 128).any()


def test_png_is_replaced_whole(tmp_path):
    path = tmp_path / "samples" / "1.png"
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = _flat(7, size=5, channels=channels)[0]
        save_png(path, image)
        read = Image.open(path)
        assert read.mode == mode
        np.testing.assert_array_equal(np.asarray(read).reshape(image.shape), image)
    assert [p.name for p in path.parent.iterdir()] == ["1.png"]


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"images=\(0, 1, 1, 1\): shape must be"):
        image_grid(_flat(), num_cols=2)
    with pytest.raises(ValueError, match="num_cols=0"):
        image_grid(_flat(1), num_cols=0)
    with pytest.raises(ValueError, match=r"rows=\[1, 2\] images: each row must hold"):
        side_by_side([("a", _flat(1)), ("b", _flat(1, 2))])
    with pytest.raises(ValueError, match=r"rows=\[\] images"):
        side_by_side([])


def test_captions_stand_below_their_tiles():
    """Dark below the tiles that have a text alone; tiles stay where they are."""
    rows = [("a", _flat(9, 9, 9, channels=3)), ("b", _flat(8, 8, 8, channels=3))]
    plain = side_by_side(rows, scale=40)
    found = side_by_side(rows, scale=40, captions=[None, ["1.5", "", "1,234"]])
    added = len(found) - len(plain)
    assert (
        10 < added < 30 and (found[: len(plain) // 2] == plain[: len(plain) // 2]).all()
    )
    line = found[len(plain) :].min(axis=(0, 2)) < 128
    left = found.shape[1] - 3 * 42 - 2
    tiles = [line[left + 42 * i : left + 42 * (i + 1)] for i in range(3)]
    assert [tile.any() for tile in tiles] == [True, False, True]
    assert not line[:left].any()
    middle = np.flatnonzero(tiles[2]).mean()
    assert abs(middle - 21) < 4


def test_captions_follow_their_images_into_further_blocks():
    rows = [("a", _flat(1, 2, 3, channels=3))]
    found = side_by_side(rows, num_cols=2, captions=[["", "", "7"]])
    lower = found[len(found) // 2 :]
    assert (lower[-18:] < 128).any() and not (found[52 : 52 + 18] < 128).any()


def _below(texts, size=16, num=None):
    """The part of a grid of one row that lies below its tiles."""
    images = _flat(*range(len(texts)), size=size, channels=3)
    found = image_grid(images, num_cols=len(texts), captions=texts)
    plain = image_grid(images, num_cols=len(texts), scale=-(-144 // size))
    assert (found[: len(plain)] == plain).all() and found.shape[1] == plain.shape[1]
    return found[len(plain) :]


@pytest.mark.parametrize("size", [64, 512])
def test_prompts_are_wrapped_below_their_images_and_cut(size):
    short, long = "a photo of a cat", "an oil painting of the night sky " * 40
    one, many = _below([short, ""], size), _below([long, short], size)
    half = one.shape[1] // 2
    assert (one[:, :half] < 128).any() and not (one[:, half:] < 128).any()
    assert 2 * len(one) < len(many) < 6 * len(one)
    # Nothing is written beyond a tile, and nothing beyond the last line.
    assert not (many[:, [0, 1, 2, half - 2, half - 1, half]] < 128).any()
    assert not (many[-2:] < 128).any()
    unbroken = _below(["x" * 400, short], size)
    assert not (unbroken[:, [0, 1, half - 2, half - 1]] < 128).any()


def test_letters_without_a_glyph_are_boxes_and_every_text_is_drawn():
    for text in (
        "\u043a\u043e\u0442 \u043d\u0430",
        "\u732b " * 8,
        "Caf\xe9 \u2013 Zo\xeb",
    ):
        assert (_below([text + " and more words", "some other words"]) < 128).any()
    font = ("", 12)
    assert captions._drawable("Cafe\u0301 \u2013 Zo\xeb", font) == "Cafe - Zoe"
    box = captions.UNKNOWN
    assert captions._drawable("a\u732b\u0301b", font) == f"a{box}b"


def test_rows_of_a_grid_have_their_texts_each():
    images = _flat(*range(5), size=8, channels=1)
    found = image_grid(images, num_cols=2, captions=["", "", "", "", "seven"])
    assert found.shape[2] == 3 and (found[-18:] < 128).any()
    assert not (found[50 : 50 + 18] < 128).any()
