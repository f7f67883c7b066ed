"""A metric over the steps as inline SVG that takes the page's colours."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

INK = "#010203"  # stands for the page's text colour until the SVG is text
LINE = "#2a7de1"  # readable on white and on black
AXES = ("step", "time", "images")  # no measurements
LOG_RANGE = 50  # a positive metric that spans more than this gets a logarithmic axis


def names(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics of a log that can be drawn: finite at two steps or more."""
    seen = dict.fromkeys(name for line in lines for name in line)
    return [n for n in seen if n not in AXES and len(_points(lines, n)) > 1]


def svg(lines: Sequence[Mapping[str, Any]], name: str, *, salt: str) -> str:
    """One metric of a log as an <svg> element.

    Args:
        lines: As `metrics_log.read` gives them.
        name: The metric.
        salt: Text of which the page holds no second one: makes its ids unique.
    """
    # Late: it takes half as long to import as JAX, and only a report needs it.
    import matplotlib
    from matplotlib.figure import Figure

    points = _points(lines, name)
    steps, values = zip(*points, strict=True)
    # Margins that hold any label: to find the tightest takes longer than to draw.
    figure = Figure(figsize=(4.2, 2.4))
    axes = figure.add_axes((0.18, 0.21, 0.78, 0.68))
    axes.plot(steps, values, color=LINE, linewidth=1.4)
    finite = [value for value in values if math.isfinite(value)]
    if min(finite) > 0 and max(finite) > LOG_RANGE * min(finite):
        axes.set_yscale("log")
    axes.set_xlabel("step", color=INK)
    axes.tick_params(which="both", colors=INK, labelsize=9)
    axes.grid(alpha=0.2, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
    }
    buffer = io.StringIO()
    with matplotlib.rc_context(style):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue())


def _points(lines, name):
    """(step, value) pairs; NaN stays and interrupts the line, and does not count."""
    found = [(line["step"], line[name]) for line in lines if name in line]
    return found if sum(math.isfinite(value) for _, value in found) > 1 else []


def _inline(text):
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # matplotlib numbers its groups from 1 in each figure; nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    # The page decides the size; the viewBox keeps the proportions.
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text)
    return text.replace(INK, "currentColor")
