"""What pages say of the models of one table: the table, plots of cost, the shares."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdiff_jax.partition import Partition
from kdiff_jax.report import details, elements, figures, scatter
from kdiff_jax.report.elements import Cell, Html
from kdiff_jax.report.figures import finite
from kdiff_jax.report.progress import duration
from kdiff_jax.report.summary import Row, number_text

COSTS = {
    "distance against evaluations": ("nfe", "evaluations of the network"),
    "distance against speed": ("images_per_second", "images per second"),
}
MAX_GROUPS = 64  # of a table of groups; a thousand classes are no table


def table(
    rows: Sequence[Row],
    names: Sequence[str],
    *,
    caption: str,
    best: Mapping[str, Any] | None = None,
) -> Html:
    """The models with their figures and costs, the widest facts left to `each`.

    Args:
        rows: Rows of a report.
        names: How each is called.
        caption: What stands below the table.
        best: Figure -> index of the row that is marked for it.
    """
    shown = details.figure_names(rows)
    several = any((row.get("num_students") or 1) > 1 for row in rows)
    head = ["model", "evaluations", *shown, "images/s", "ms for one"]
    head += ["parameters", *["students"] * several, "updates", "trained for"]
    head += ["method", "sampler"]
    lines = []
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        role = str(row.get("role") or "")
        cells: list[str | Cell] = [Cell(name, role if role != row.get("stage") else "")]
        cells += [_text(row["nfe"])]
        cells += [
            Cell(
                _figure(row["metrics"], figure),
                details.beside_text(row, figure),
                best is not None and best.get(figure) == i,
            )
            for figure in shown
        ]
        cells += [
            Cell(_text(row.get(key)), _range(details.quartiles(row, key)))
            for key in ("images_per_second", "latency_ms")
        ]
        cells += [_text(row.get("num_params"))]
        cells += [_text(row.get("num_students"))] * several
        seconds = row.get("train_seconds")
        cells += [_text(row.get("train_steps"))]
        cells += ["" if seconds is None else duration(seconds)]
        cells += [_text(row.get("method")), str(row["sampler"])]
        lines.append(cells)
    kinds = [str(row.get("role") or "") for row in rows]
    return elements.table(
        head, lines, caption=caption, text_columns=(0, -2, -1), kinds=kinds
    )


def plots(rows: Sequence[Row], names: Sequence[str], *, salt: str) -> Html:
    """Each distance against evaluations and against speed; the first two unfolded."""
    drawn = [_pair(rows, names, name, salt) for name in figures.distances(rows)]
    drawn = [pair for pair in drawn if pair]
    if not drawn:
        return Html("")
    first, *others = drawn
    return Html(first + elements.folded("Other distances", *others))


def plot(
    rows: Sequence[Row], names: Sequence[str], figure: str, cost: str, *, salt: str
) -> Html:
    """One distance against one cost of `COSTS`; nothing if no model has both."""
    key, xlabel = COSTS[cost]
    points = []
    for row, name in zip(rows, names, strict=True):
        x, y = finite(row.get(key)), finite(row["metrics"].get(figure))
        if x is None or y is None:
            continue
        spread = figures.spread(row["metrics"], figure)
        low, high = spread[1:] if spread and spread[0] == "interval" else (None, None)
        line, filled = str(_line(row, rows)), row.get("role") != "teacher"
        points.append(scatter.Point(name, x, y, line, filled, low, high))
    if not points:
        return Html("")
    salt = f"{salt} {figure} {cost}"
    about: dict[str, Any] = dict(xlabel=xlabel, ylabel=figure, counts=key == "nfe")
    drawn = scatter.plot(points, salt=salt, **about)
    return elements.figure(f"{figure}: {cost}", drawn)


def each(
    rows: Sequence[Row], names: Sequence[str], hardware: Mapping[str, Any] | None = None
) -> Html:
    """Every fact of every model, folded."""
    return Html(
        "\n".join(
            elements.folded(name, elements.facts(details.of_row(row, hardware)))
            for row, name in zip(rows, names, strict=True)
        )
    )


def students(rows: Sequence[Row], names: Sequence[str]) -> Html:
    """Who owns what, for each model of several students."""
    parts = []
    for row, name in zip(rows, names, strict=True):
        if not (spec := row.get("partition")):
            continue
        partition = Partition.from_spec(dict(spec))
        owned = [line.partition(": ")[2] for line in partition.table().splitlines()]
        own = _of_groups(row, partition)
        head = ["student", "owns", "share", "updates", *own]
        updates = _text(row.get("train_steps"))
        lines = [
            [
                str(k),
                owned[k],
                _share(partition, k),
                updates,
                *(values[k] for values in own.values()),
            ]
            for k in range(partition.num_students)
        ]
        caption = f"{name}: {partition.num_students} students and what each owns"
        words = (0, 1, 2)
        parts.append(elements.table(head, lines, caption=caption, text_columns=words))
    return Html("\n".join(parts))


def groups(rows: Sequence[Row], names: Sequence[str]) -> Html:
    """Figures of each class, or each student's classes, of all models side by side."""
    measured = [(r["groups"], n) for r, n in zip(rows, names, strict=True) if _has(r)]
    keys = list(dict.fromkeys(key for found, _ in measured for key in found))
    if not keys:
        return Html("")
    shown = list(
        dict.fromkeys(
            figure
            for found, _ in measured
            for values in found.values()
            for figure in values
            if figure != "num_images" and figures.is_figure(figure)
        )
    )
    head = ["group", *(f"{name}: {figure}" for figure in shown for _, name in measured)]
    lines = [
        [
            key,
            *(_figure(f.get(key, {}), figure) for figure in shown for f, _ in measured),
        ]
        for key in keys[:MAX_GROUPS]
    ]
    left = len(keys) - len(lines)
    more = f"; {left} more are in report.json" if left > 0 else ""
    caption = f"Figures of each group of labels alone, of fewer images{more}"
    return elements.table(head, lines, caption=caption)


def _pair(rows, names, figure: str, salt: str) -> str:
    drawn = [plot(rows, names, figure, cost, salt=salt) for cost in COSTS]
    return f'<div class="plots">{"".join(drawn)}</div>' if any(drawn) else ""


def _line(row: Row, rows: Sequence[Row]) -> str:
    """Models of one line: of one run and stage, at several numbers of steps."""
    return f"{row.get('run', '')}/{row.get('stage')}/{row.get('sampler')}"


def _of_groups(row: Row, partition: Partition) -> dict[str, list[str]]:
    """Figure -> its text for each student, where the row has figures of its labels."""
    found, keys = row.get("groups") or {}, _group_keys(row, partition)
    own = [found.get(key, {}) for key in keys for _ in range(partition.num_ranges)]
    names = dict.fromkeys(n for values in own for n in values)
    shown = [n for n in names if n == "num_images" or figures.is_figure(n)]
    return {
        "images" if n == "num_images" else n: [_figure(values, n) for values in own]
        for n in shown
    }


def _group_keys(row: Row, partition: Partition) -> list[str]:
    """Of each group of students the row's group with its figures; "" where none has.

    A group of one class has the figures of this class, measured per class or per
    student. A row of before does not say which: then the numbers of groups and classes
    tell, or nothing does.
    """
    labels, found = partition.groups, row.get("groups") or {}
    of_students = [str(g) for g in range(len(labels))]
    of_classes = [str(own[0]) if len(own) == 1 else "" for own in labels]
    if "per" in row:
        keys = of_students if row["per"] == "student" else of_classes
    else:
        told = len(found) == len(labels) < sum(map(len, labels))
        keys = of_students if told or of_students == of_classes else []
    return keys if len(labels) > 1 and keys else [""] * partition.num_groups


def _share(partition: Partition, k: int) -> str:
    """Part of the labels that a student owns, and which range of the times."""
    group, i = divmod(k, partition.num_ranges)
    parts = []
    if partition.groups:
        num = sum(map(len, partition.groups))
        parts.append(f"{100 * len(partition.groups[group]) / num:.3g} % of labels")
    if partition.borders:
        parts.append(f"range {i + 1} of {partition.num_ranges}")
    return ", ".join(parts)


def _has(row: Row) -> bool:
    return isinstance(row.get("groups"), Mapping) and bool(row["groups"])


def _range(ends: Any) -> str:
    return " to ".join(number_text(end) for end in ends) if ends else ""


def _figure(metrics: Mapping[str, Any], name: str) -> str:
    """A figure that was not measured stays empty; one that is NaN says so."""
    return number_text(metrics[name]) if name in metrics else ""


def _text(value: Any) -> str:
    return "" if value is None else number_text(value)
