"""Runs side by side as a file: one page, Markdown or JSON."""

import pathlib
from collections.abc import Sequence

from kdiff_jax.files import json_text
from kdiff_jax.report import compare, elements, figures, models
from kdiff_jax.report.compare import Group
from kdiff_jax.report.elements import Html, element, section

MARK = (
    "made by kdiff_jax.evaluate compare"  # in each of them: such a file may be replaced
)
TITLE = "Runs side by side"
APART = "Shown apart and not ranked with those above: "


def text(found: Sequence[Group], suffix: str) -> str:
    """The content of a file.

    Args:
        found: As `compare.groups` gives them.
        suffix: Ending of the file: .html, .md or .json.
    """
    if suffix == ".json":
        return json_text({"made_by": MARK, **compare.as_json(found)}, indent=2) + "\n"
    page = _page(found) if suffix == ".html" else compare.markdown(found)
    return f"{page}<!-- {MARK} -->\n"


def is_one(path: pathlib.Path) -> bool:
    """Whether a file is a comparison, or empty, and may be replaced."""
    content = path.read_bytes()
    return not content or MARK.encode() in content


def _page(found: Sequence[Group]) -> str:
    parts = [element("h1", TITLE)]
    parts += [_group(group, i) for i, group in enumerate(found)]
    each = [models.each(group.rows, group.names) for group in found]
    parts.append(section("What each figure is", *each))
    return elements.page(TITLE, parts)


def _group(group: Group, number: int) -> Html:
    title = "Compared" if not number else f"Apart, {number}"
    marked = "The best of each figure is marked." if group.best else ""
    return section(
        title,
        group.apart and element("p", APART + group.apart + ".", kind="result"),
        elements.facts(group.facts.items()),
        models.table(
            group.rows,
            group.names,
            caption=f"{len(group.rows)} models. {marked}".strip(),
            best=group.best,
        ),
        _plots(group, number),
    )


def _plots(group: Group, number: int) -> str:
    distances = figures.distances(group.rows)
    drawn = [
        models.plot(group.rows, group.names, name, cost, salt=f"group {number}")
        for name in distances[:1]
        for cost in models.COSTS
    ]
    return f'<div class="plots">{"".join(drawn)}</div>' if any(drawn) else ""
