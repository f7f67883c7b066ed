"""`report.json` and its tables: one row for each measured model."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from kdiff_jax import sealed
from kdiff_jax.errors import DataError
from kdiff_jax.report.environment import hardware, versions
from kdiff_jax.report.figures import is_figure
from kdiff_jax.report.progress import duration

Row = Mapping[str, Any]

# What scripts rely on. All of them are in every row; a figure that was not measured is
# None, and one that is NaN becomes null in the file.
COLUMNS = (
    "stage",
    "role",
    "method",
    "sampler",
    "sampler_options",  # its keywords, as num_steps
    "nfe",
    "num_params",  # of one student
    "num_students",
    "num_params_total",  # of all students
    "precision",  # type that the networks computed in
    "macs",  # multiply-adds of one network evaluation of one image
    "num_images",
    "seed",
    "metrics",
    "groups",  # the same of each class or student's part, where asked for
    "features",  # that the metrics read: name, preprocessing, digest of the weights
    "compared_with",  # the reference: images, features, a fingerprint of the data
    "images_per_second",
    "latency_ms",  # of one image, alone
    "train_steps",
    "train_seconds",
    "average",  # of which weights: a moving average by its name, or "params"
)
# What a row may have beside them; rows of before, or of other sources, do not.
OPTIONAL = (
    "labels",  # how they were chosen, see `train.label_protocols`
    "per",  # "class" or "student": what the groups are
    "seeds",  # of several: the figures of each, and which are those of the row
    "neighbours",  # training images nearest to the first samples of a student
    "timing",  # quartiles of both speeds, and how many images at once
    "memory",  # bytes that one image alone takes
    "protocol",  # of a paper, by name, and what was chosen otherwise
    "prompts",  # of a file: how many, and their digest
    "clip",  # what the CLIP score is of: name, digests
    "partition",  # who of several students owns which classes and times
    "measured",  # when, on which devices, with which commit
)
ROLES = ("teacher", "student")
STUDENTS = {"students": "num_students", "all students'": "num_params_total"}


def make_report(config: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The content of `report.json`, with this machine's hardware and versions.

    Args:
        config: The config's name.
        rows: Each with the keys of `COLUMNS`, those of `OPTIONAL` that it has, and the
            role "teacher" or "student".

    Raises:
        ValueError: If a row lacks a key, has another, or an unknown role.
    """
    for row in rows:
        wrong = set(COLUMNS) ^ (set(row) - set(OPTIONAL))
        if wrong:
            raise ValueError(
                f"row={row.get('stage')!r}: keys {sorted(wrong)} miss or are unknown; "
                f"a row has {', '.join(COLUMNS)}"
            )
        if row["role"] not in ROLES:
            raise ValueError(f"role={row['role']!r}: choose 'teacher' or 'student'")
    return {
        "config": config,
        "rows": [
            {name: row[name] for name in (*COLUMNS, *OPTIONAL) if name in row}
            for row in rows
        ],
        "hardware": hardware(),
        "versions": versions(),
    }


def is_whole(row: Row) -> bool:
    """Whether a row has all that `make_report` asks for, and nothing else."""
    return not set(COLUMNS) ^ (set(row) - set(OPTIONAL)) and row["role"] in ROLES


def write(path: str | os.PathLike, report: Mapping[str, Any]) -> None:
    """Writes `report.json`, whole or not at all, with a digest."""
    sealed.write_json(path, report, indent=2)


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Reads `report.json`; a null stays None.

    Raises:
        DataError: If it is missing or damaged.
    """
    way_out = (
        "delete it and the done.json of the stage that evaluates, and run the same"
        " command again: what was measured is kept"
    )
    report = sealed.read_json(path, error=DataError, way_out=way_out)
    rows = report.get("rows")
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise DataError(f"{path}: is no report; {way_out}")
    return report


def _is_row(row) -> bool:
    """Whether there is what every table has; other columns may have come later."""
    names = {"stage", "role", "method", "sampler", "nfe", "metrics", "train_seconds"}
    return isinstance(row, dict) and names <= row.keys()


def text_table(rows: Sequence[Row]) -> str:
    """Teacher and student rows for the terminal, columns aligned."""
    head, *body = table(rows)
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    first_number = head.index("nfe")

    def line(cells):
        aligned = (
            cell.ljust(width) if i < first_number else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(head), rule, *map(line, body)])


def said(row: Row, features: str = "") -> str:
    """The figures of a row and its speed, in a line for people.

    Args:
        row: The row.
        features: Features that were asked for; a row without any lacks their weights.
    """
    figures = ", ".join(f"{k} {number_text(v)}" for k, v in row["metrics"].items())
    text = f"{figures or 'no figure'} of {number_text(row['num_images'])} images"
    if not figures:
        why = f"the weights of {features} are missing" if features else "none asked for"
        text += f" ({why})"
    if (speed := row.get("images_per_second")) is None:
        return text
    alone = number_text(row.get("latency_ms"))
    return f"{text}; {number_text(speed)} images/s, one alone in {alone} ms"


def markdown_table(rows: Sequence[Row]) -> str:
    """The same table for a document."""
    cells = table(rows)
    return markdown(cells, first_number=cells[0].index("nfe"))


def markdown(cells: Sequence[Sequence[str]], *, first_number: int) -> str:
    """Cells, the head first, as a table of Markdown.

    Args:
        cells: Text of each cell, row by row.
        first_number: The first column that holds numbers, aligned to the right.
    """
    head, *body = cells
    marks = ["---" if i < first_number else "---:" for i in range(len(head))]
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in body)
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, marks, *escaped)]
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Cells as text, the head first; one column for each metric of any row.

    Students are counted where there are several. A report of before a column existed
    leaves it empty.
    """
    metrics = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    several = any((row.get("num_students") or 1) > 1 for row in rows)
    costs = {
        "images/s": "images_per_second",
        "ms/image": "latency_ms",
        "MACs": "macs",
        "parameters": "num_params",
        **(STUDENTS if several else {}),
        "images": "num_images",
        "train steps": "train_steps",
    }
    head = ["stage", "role", "method", "sampler", "nfe", *metrics, *costs, "train time"]
    return [head, *(_cells(row, metrics, costs.values()) for row in rows)]


def number_text(value: Any) -> str:
    """A number in four digits, counts in full, NaN (or null) as "nan"."""
    if isinstance(value, str):
        return value
    value = math.nan if value is None else float(value)
    if value.is_integer():
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 1e3 else f"{value:,.0f}"


def of_seeds(row: Row, name: str) -> str:
    """What a figure is of several seeds, with all of them: "best of 2.1, 2.2".

    Nothing for a row of one seed, and for what tells the spread of a figure.
    """
    about = row.get("seeds")
    if not isinstance(about, Mapping) or not is_figure(name):
        return ""
    values = [one["metrics"].get(name) for one in about["each"]]
    all_of_them = ", ".join(map(number_text, values))
    if about["headline"] == "mean":
        return f"mean of {all_of_them}"
    of = f"best of {all_of_them}"
    return of if about["by"] == name else f"of {all_of_them}, by {about['by']}"


def _cells(row, metrics, costs):
    seconds = row["train_seconds"]
    return [
        *(_text(row[name]) for name in ("stage", "role", "method", "sampler", "nfe")),
        *(_figure(row, name) for name in metrics),
        *(_text(row.get(name)) for name in costs),
        "" if seconds is None else duration(seconds),
    ]


def _figure(row, name):
    """A metric that a row never measured stays empty; one that is NaN says so."""
    text, several = number_text(row["metrics"].get(name, "")), of_seeds(row, name)
    return f"{text} ({several})" if several and text else text


def _text(value):
    return "" if value is None else number_text(value)
