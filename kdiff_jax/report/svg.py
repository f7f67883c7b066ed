"""matplotlib figures as <svg> elements that take the page's colours."""

import io
import re
from html import escape
from typing import Any

INK = "#010203"  # stands for the page's text colour until the SVG is text
# Readable on white and on black, and told apart by most who see colours otherwise.
COLORS = ("#2a7de1", "#d9730d", "#2f9e6e", "#a05fd6", "#c2477f", "#8a8f2a")
SIZE = 10  # of letters


def axes(width: float, height: float) -> tuple[Any, Any]:
    """(figure, axes) of so many inches, with margins that hold any label."""
    # Late: it takes half as long to import as JAX, and only a report needs it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    left, right, bottom, top = 0.72, 0.15, 0.52, 0.22
    box = left / width, bottom / height, (width - left - right) / width
    found = figure.add_axes((*box, (height - bottom - top) / height))
    found.tick_params(which="both", colors=INK, labelsize=SIZE - 1)
    found.grid(alpha=0.2, color=INK)
    found.spines[["top", "right"]].set_visible(False)
    found.spines[["left", "bottom"]].set_color(INK)
    return figure, found


def text(figure: Any, *, alt: str, salt: str) -> str:
    """A figure as an <svg> element.

    Args:
        figure: The figure.
        alt: What it shows, for those who do not see it.
        salt: Text of which the page holds no second one: makes its ids unique.
    """
    import matplotlib

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
    }
    buffer = io.StringIO()
    with matplotlib.rc_context(style):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    found = buffer.getvalue()
    found = found[found.index("<svg") :]
    found = re.sub(r"<metadata>.*?</metadata>", "", found, flags=re.DOTALL)
    # matplotlib numbers its groups from 1 in each figure; nothing refers to them.
    found = re.sub(r'<g id="[^"]*"', "<g", found)
    # The page decides the size; the viewBox keeps the proportions.
    found = re.sub(r' (?:width|height)="[\d.]+pt"', "", found)
    found = found.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)
    return found.replace(INK, "currentColor")
