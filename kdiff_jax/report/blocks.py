"""Pictures and curves as characters of a terminal."""

import math
import pathlib
from collections.abc import Sequence

from PIL import Image
from rich.style import Style
from rich.text import Text

LEVELS = "▁▂▃▄▅▆▇█"
WIDE = (
    20.0  # ratio of the largest to the smallest value from which a curve is logarithmic
)


def picture(path: pathlib.Path, columns: int, rows: int) -> Text | None:
    """A picture in coloured half blocks, two pixels a character.

    Args:
        path: The file.
        columns: Characters that it may be wide.
        rows: Lines that it may be high.

    Returns:
        None if it cannot be read: it may be about to be replaced.
    """
    try:
        with Image.open(path) as image:
            image.load()
            whole = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    scale = min(columns / whole.width, 2 * rows / whole.height, 8.0)
    size = max(1, round(whole.width * scale)), max(2, round(whole.height * scale))
    small = whole.resize((size[0], size[1] + size[1] % 2), Image.Resampling.BOX)
    pixels = small.load()
    assert pixels is not None
    text = Text(no_wrap=True, end="")
    for y in range(0, small.height, 2):
        for x in range(small.width):
            top, below = pixels[x, y], pixels[x, y + 1]
            text.append("▀", Style.parse(f"{_hex(top)} on {_hex(below)}"))
        text.append("\n")
    return text


def _hex(pixel) -> str:
    return "#" + "".join(f"{value:02x}" for value in pixel)


def curve(values: Sequence[float], width: int = 24) -> str:
    """Characters whose heights follow the values; what is not finite is a gap.

    Args:
        values: In order; more than `width` are averaged in bins.
        width: Characters at most.
    """
    if not values:
        return ""
    num = min(width, len(values))
    edges = [round(i * len(values) / num) for i in range(num + 1)]
    bins = [_mean(values[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    known = [value for value in bins if value is not None]
    if not known:
        return " " * num
    low, high = min(known), max(known)
    if low > 0 and high / low > WIDE:
        bins = [None if value is None else math.log(value) for value in bins]
        low, high = math.log(low), math.log(high)
    return "".join(_level(value, low, high) for value in bins)


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _level(value: float | None, low: float, high: float) -> str:
    if value is None:
        return " "
    if high <= low:
        return LEVELS[0]
    return LEVELS[round((value - low) / (high - low) * (len(LEVELS) - 1))]
