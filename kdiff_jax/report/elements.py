"""Parts of a page: tables, figures, facts, and the page around them.

All text is escaped here. What is HTML already is marked by its type, `Html`.
"""

import base64
import os
import pathlib
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import NamedTuple

from kdiff_jax.report.style import POLICY, STYLE


class Html(str):
    """Text that is HTML already."""


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: What stands in it.
        small: A line under it, as the spread of a figure.
        best: Whether it is the best of its column.
    """

    text: str
    small: str = ""
    best: bool = False


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page, which fetches and runs nothing."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        "<main>\n" + "\n".join(p for p in parts if p) + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> Html:
    """Parts under a heading; nothing without parts."""
    inner = "\n".join(part for part in parts if part)
    return Html(f"<h2>{escape(title)}</h2>\n{inner}" if inner else "")


def element(tag: str, text: str, *, kind: str = "") -> Html:
    """Text, or HTML, in an element of a class."""
    mark = f' class="{kind}"' if kind else ""
    return Html(f"<{tag}{mark}>{_html(text)}</{tag}>")


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str | Cell]],
    *,
    caption: str,
    text_columns: Collection[int] = (0,),
    kinds: Sequence[str] = (),
) -> Html:
    """A table that scrolls in its own frame where the page is narrow.

    Args:
        head: Names of the columns.
        rows: Cells; the first of each row is its name.
        caption: What stands above it.
        text_columns: Places of the columns that hold no numbers; negative ones count
            from the last.
        kinds: Class of each row.
    """
    words = {i % len(head) for i in text_columns}
    marks = [' class="text"' if i in words else "" for i in range(len(head))]
    heads = "".join(
        f'<th scope="col"{mark}>{escape(name)}</th>'
        for name, mark in zip(head, marks, strict=True)
    )
    kinds = kinds or [""] * len(rows)
    lines = "".join(
        f'<tr class="{escape(kind)}">{_row(row, words)}</tr>\n'
        for row, kind in zip(rows, kinds, strict=True)
    )
    # What scrolls must be reached by keyboards, too.
    title = escape(caption)
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">'
        f"<table><caption>{title}</caption><thead><tr>{heads}</tr></thead>\n"
        f"<tbody>{lines}</tbody></table></div>"
    )


def picture(title: str, png: str | os.PathLike, *, alt: str = "") -> Html:
    """A PNG within the page, with its title above it."""
    data = base64.b64encode(pathlib.Path(png).read_bytes()).decode()
    alt = escape(alt or title)
    return Html(
        f'<figure class="grid"><figcaption>{escape(title)}</figcaption>'
        f'<img alt="{alt}" src="data:image/png;base64,{data}"></figure>'
    )


def figure(title: str, drawn: str) -> Html:
    """An <svg> with its title above it."""
    return Html(f"<figure><figcaption>{escape(title)}</figcaption>{drawn}</figure>")


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Names and values."""
    items = (
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in pairs
    )
    return Html(f"<dl>{''.join(items)}</dl>")


def folded(title: str, *parts: str) -> Html:
    """Parts that show when their title is asked for; nothing without parts."""
    inner = "\n".join(part for part in parts if part)
    if not inner:
        return Html("")
    return Html(f"<details><summary>{escape(title)}</summary>\n{inner}</details>")


def _row(cells: Sequence[str | Cell], words: Collection[int]) -> str:
    first, *rest = (c if isinstance(c, Cell) else Cell(c) for c in cells)
    found = [f'<th scope="row" class="text">{_cell(first)}</th>']
    for i, cell in enumerate(rest, 1):
        names = ["text"] * (i in words) + ["best"] * cell.best
        mark = f' class="{" ".join(names)}"' if names else ""
        found.append(f"<td{mark}>{_cell(cell)}</td>")
    return "".join(found)


def _cell(cell: Cell) -> str:
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    return escape(cell.text) + small


def _html(text: str) -> str:
    return text if isinstance(text, Html) else escape(text)
