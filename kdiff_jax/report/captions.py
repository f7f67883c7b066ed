"""Texts below pictures: wrapped to the width of each, and cut where they are long."""

import functools
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

MAX_LINES = 4
LONG = 12  # characters; longer texts need wider tiles, see `min_tile`
WIDE = 144  # pixels of a tile that words are read below
SIZES = 12, 22  # pixels of the font, at the narrowest and the widest tile
END = "..."
UNKNOWN = "\N{WHITE SQUARE}"  # without a glyph itself, it is drawn as a box
GAP = 4  # pixels below the last line
# Looked for, where a machine has them, for letters that Pillow's own font lacks.
FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")


def min_tile(texts: Sequence[str], least: int) -> int:
    """Least side of a tile in pixels, so that its text can be read."""
    return max(least, WIDE) if any(len(text) > LONG for text in texts) else least


def below(
    texts: Sequence[str], width: int, tile: float, left: float
) -> UInt8[np.ndarray, "h {width} 3"]:
    """A strip with each text centred below its tile.

    Args:
        texts: One for each tile of a row.
        width: Width of the strip in pixels.
        tile: Distance between two tiles in pixels.
        left: Where the first tile begins, in pixels.
    """
    size, room = _size(tile), tile - 6
    fonts = [_font_of(text, size) for text in texts]
    drawable = [_drawable(*pair) for pair in zip(texts, fonts, strict=True)]
    wrapped = [_wrapped(*pair, room) for pair in zip(drawable, fonts, strict=True)]
    step = size * 5 // 4 + 3
    height = step * max(1, *map(len, wrapped)) + (GAP if len(wrapped) > 1 else 0)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for i, (lines, font) in enumerate(zip(wrapped, fonts, strict=True)):
        for k, line in enumerate(lines):
            middle = left + (i + 0.5) * tile, k * step
            draw.text(middle, line, fill="black", font=_font(*font), anchor="ma")
    return np.asarray(picture)


def _size(tile: float) -> int:
    small, large = SIZES
    return int(np.clip(tile / 23, small, large))


@functools.cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of the machine; "" is Pillow's own, and in the place of one it lacks."""
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return ImageFont.load_default(size=size)  # type: ignore[return-value]


def _font_of(text: str, size: int) -> tuple[str, int]:
    """The font that has most letters of a text, Pillow's before others."""
    fonts = [(name, size) for name in ("", *FONTS)]
    return min(fonts, key=lambda font: sum(_glyphs(font, c) != c for c in text))


def _wrapped(text: str, of: tuple[str, int], room: float) -> list[str]:
    """Lines that fit, at most `MAX_LINES`; a word that is wider than one is broken."""
    font = _font(*of)
    lines: list[str] = []
    line = ""
    for word in text.split():
        while word:
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= room:
                line, word = longer, ""
            elif line:
                lines, line = [*lines, line], ""
            else:
                part = _fitting(word, room, font)
                lines, word = [*lines, part], word[len(part) :]
    lines = [*lines, line] if line else lines
    if len(lines) <= MAX_LINES:
        return lines
    last = lines[MAX_LINES - 1]
    while last and font.getlength(last + END) > room:
        last = last[:-1]
    return [*lines[: MAX_LINES - 1], last.rstrip() + END]


def _fitting(word: str, room: float, font) -> str:
    """As much of the word as a line holds; one character at least."""
    end = len(word)
    while end > 1 and font.getlength(word[:end]) > room:
        end -= 1
    return word[:end]


def _drawable(text: str, font: tuple[str, int]) -> str:
    """The text as far as a font has it; Pillow's knows no letters beyond English.

    Accents are left out, other dashes are "-", and what has no glyph is a box.
    """
    return "".join(_glyphs(font, c) for c in unicodedata.normalize("NFC", text))


@functools.lru_cache(maxsize=4096)
def _glyphs(font: tuple[str, int], character: str) -> str:
    if character.isspace():
        return " "
    if _has(font, character):
        return character
    if unicodedata.category(character) == "Pd":
        return "-"
    plain = [
        c
        for c in unicodedata.normalize("NFKD", character)
        if unicodedata.category(c)[0] not in "MC"
    ]
    known = all(_has(font, c) for c in plain)
    return "".join(plain) if known else UNKNOWN


@functools.lru_cache(maxsize=4096)
def _has(font: tuple[str, int], character: str) -> bool:
    """Whether the font has a glyph of its own for the character."""
    drawn: Any = _font(*font).getmask
    return bytes(drawn(character)) != bytes(drawn("\U0010fffe"))
