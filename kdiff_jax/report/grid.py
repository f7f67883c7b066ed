"""Pictures of many images: grids, and teacher above student from the same noise."""

import io
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from kdiff_jax.files import write_atomically
from kdiff_jax.report import captions as texts_below

MIN_TILE = 48  # pixels; below, a person cannot read an 8x8 digit
WHITE = 255


def image_grid(
    images: UInt8[np.ndarray, "N H W C"],
    *,
    num_cols: int,
    pad: int = 2,
    scale: int | None = None,
    captions: Sequence[str] | None = None,
) -> UInt8[np.ndarray, "h w _C"]:
    """Images row by row on white, enlarged by repeating pixels.

    Args:
        images: uint8; the last row is filled up with white. Of one pixel with two
            channels, points of the plane, each is drawn as a dot in its place.
        num_cols: Images a row.
        pad: White pixels around each image.
        scale: How often each pixel is repeated; None: until a tile has 48 pixels, or
            as many as its text needs.
        captions: A text below each image, or None; long ones are wrapped and cut.

    Returns:
        One picture, uint8, RGB if there are captions.

    Raises:
        ValueError: If there is no image, or a size is not positive.
    """
    _check(images, num_cols, pad, scale)
    if captions is not None:
        return _rows_with_captions(images, captions, num_cols, pad, scale)
    tiles = _tiles(images, scale)
    num, height, width, channels = tiles.shape
    num_rows = -(-num // num_cols)
    num_cols = min(num_cols, num)
    shape = (num_rows * num_cols, height + pad, width + pad, channels)
    cells = np.full(shape, WHITE, np.uint8)
    cells[:num, :height, :width] = tiles
    cells = cells.reshape(num_rows, num_cols, height + pad, width + pad, channels)
    rows = cells.transpose(0, 2, 1, 3, 4)
    grid = rows.reshape(num_rows * (height + pad), num_cols * (width + pad), channels)
    edges = ((pad, 0), (pad, 0), (0, 0))
    return np.pad(grid, edges, constant_values=WHITE)


def side_by_side(
    rows: Sequence[tuple[str, UInt8[np.ndarray, "N H W C"]]],
    *,
    num_cols: int | None = None,
    pad: int = 2,
    scale: int | None = None,
    captions: Sequence[Sequence[str] | None] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Titled rows whose i-th images share their noise, one under the other.

    More than `num_cols` images continue in a further block of rows.

    Args:
        rows: (title, images), as ("teacher, 64 steps", ...), ("student, 1 step", ...).
        num_cols: Images a row; None for 10, or 5 above long captions.
        pad: White pixels around each image.
        scale: How often each pixel is repeated; None: until a tile has 48 pixels, or
            as many as its text needs.
        captions: For each row a text below each of its images, or None.

    Returns:
        One RGB picture, uint8, titles on the left.

    Raises:
        ValueError: If there is no row, or the rows hold different numbers of images.
    """
    counts = [len(images) for _, images in rows]
    if not rows or len(set(counts)) != 1:
        raise ValueError(
            f"rows={counts} images: each row must hold the same number, one per noise"
        )
    strips, labels = [], []
    below = captions or [None] * len(rows)
    told = [text for texts in below for text in texts or []]
    is_wide = texts_below.min_tile(told, MIN_TILE) > MIN_TILE
    num_cols = min(num_cols or (5 if is_wide else 10), counts[0])
    for start in range(0, counts[0], num_cols):
        for (title, images), texts in zip(rows, below, strict=True):
            part = images[start : start + num_cols]
            scale_of = scale or _scale(images, told)
            strip = _rgb(image_grid(part, num_cols=num_cols, pad=pad, scale=scale_of))
            if texts:
                strip = _told(strip, texts[start : start + num_cols], pad)
            strips.append(strip)
            labels.append(title)
    width = max(strip.shape[1] for strip in strips)
    block_gap = 4 * pad if counts[0] > num_cols else 0
    return _paste(strips, labels, width, len(rows), block_gap)


def save_png(path: str | os.PathLike, image: UInt8[np.ndarray, "h w C"]) -> None:
    """Writes a grey or RGB picture; an interrupted write leaves the former file."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        buffer, format="PNG"
    )
    write_atomically(path, buffer.getvalue())


def _check(images, num_cols, pad, scale):
    points = images.shape[1:] == (1, 1, 2)
    if (
        images.ndim != 4
        or images.shape[-1] not in (1, 3, 2 * points)
        or not images.size
    ):
        raise ValueError(
            f"images={images.shape}: shape must be (N, H, W, C) with N > 0 and C 1 or 3"
        )
    if num_cols < 1 or pad < 0 or (scale is not None and scale < 1):
        raise ValueError(
            f"num_cols={num_cols}, pad={pad}, scale={scale}: num_cols and scale start "
            "at 1, pad at 0"
        )


def _tiles(images, scale):
    if images.shape[-1] == 2:
        return _dots(images[:, 0, 0])
    scale = scale or _scale(images)
    return images.repeat(scale, axis=1).repeat(scale, axis=2)


def _scale(images, captions: Sequence[str] = ()) -> int:
    """How often pixels are repeated, so that images and their texts can be read."""
    least = texts_below.min_tile(captions, MIN_TILE)
    return -(-least // min(images.shape[1:3]))


def _dots(points):
    """uint8[N, s, s, 1]: each point (x, y), 0 to 255, as 3x3 pixels; y goes up."""
    tiles = np.full((len(points), MIN_TILE, MIN_TILE, 1), 224, np.uint8)
    for tile, (x, y) in zip(tiles, points.astype(int), strict=True):
        column, row = (1 + v * (MIN_TILE - 3) // 255 for v in (x, 255 - y))
        tile[row - 1 : row + 2, column - 1 : column + 2] = 0
    return tiles


def _rgb(image):
    return image if image.shape[-1] == 3 else image.repeat(3, axis=-1)


def _rows_with_captions(images, captions, num_cols, pad, scale):
    num_cols, scale = min(num_cols, len(images)), scale or _scale(images, captions)
    strips = []
    for start in range(0, len(images), num_cols):
        part = images[start : start + num_cols]
        strip = _rgb(image_grid(part, num_cols=num_cols, pad=pad, scale=scale))
        strips.append(_told(strip, captions[start : start + num_cols], pad))
    width = max(strip.shape[1] for strip in strips)
    room = [(0, 0), (0, width), (0, 0)]
    wide = [np.pad(s, room, constant_values=WHITE)[:, :width] for s in strips]
    return np.concatenate(wide)


def _told(strip, texts, pad):
    """A row of images with a text below each."""
    tile = (strip.shape[1] - pad) / len(texts)
    lines = texts_below.below(texts, strip.shape[1], tile, pad / 2)
    return np.concatenate([strip, lines])


def _paste(strips, labels, width, rows_per_block, block_gap):
    """Strips under each other, each with its label at the left."""
    font = ImageFont.load_default(size=15)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [measure.multiline_textbbox((0, 0), text, font=font) for text in labels]
    margin = 16 + int(max(box[2] for box in boxes))
    gaps = block_gap * ((len(strips) - 1) // rows_per_block)
    height = sum(strip.shape[0] for strip in strips) + gaps
    picture = Image.new("RGB", (margin + width, height), "white")
    draw, top = ImageDraw.Draw(picture), 0
    for i, (strip, text) in enumerate(zip(strips, labels, strict=True)):
        if i and i % rows_per_block == 0:
            top += block_gap
        picture.paste(Image.fromarray(strip), (margin, top))
        middle = (8, top + strip.shape[0] // 2)
        draw.multiline_text(middle, text, fill="black", font=font, anchor="lm")
        top += strip.shape[0]
    return np.asarray(picture)
