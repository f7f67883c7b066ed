"""`report.html`: everything about a run in one file that needs no network."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from kdiff_jax.files import json_text, write_atomically
from kdiff_jax.report import curves as curve_plots
from kdiff_jax.report import elements, figures, models
from kdiff_jax.report.elements import Html, element, section
from kdiff_jax.report.figures import finite
from kdiff_jax.report.summary import Row, number_text

SPEEDS = (
    "Speeds are those of the whole sampling program, warm: noise, network, and bytes"
    " of the images. Images a second are of full batches, the milliseconds of one image"
    " alone; below each, half of the rounds."
)
POINTS = "Filled: students. Hollow: teachers. Joined: one model at several steps."

Lines = Sequence[Mapping[str, Any]]


def write(
    path: str | os.PathLike,
    *,
    report: Mapping[str, Any],
    grids: Sequence[tuple[str, str | os.PathLike]],
    curves: Mapping[str, Lines],
    config: Mapping[str, Any],
) -> None:
    """Writes the page.

    Args:
        path: The .html file.
        report: Content of `report.json`.
        grids: (title, path of a PNG), in the order of the page.
        curves: Lines of `metrics.jsonl` by stage, as `metrics_log.read` gives them.
        config: Content of `config.json`; its "command" is shown at the top.
    """
    # Values that JSON cannot hold (paths, NaN) look as they do in config.json.
    config = json.loads(json_text(config))
    name, rows = str(report["config"]), report["rows"]
    names, hardware = figures.names(rows), report.get("hardware", {})
    machine = {**hardware, **report.get("versions", {})}
    drawn = models.plots(rows, names, salt="models")
    parts = [
        element("h1", name),
        *(element("p", text, kind="result") for text in results(rows, names)),
        section("Samples", *(elements.picture(*one) for one in grids)),
        section(
            "Teacher and student",
            models.table(rows, names, caption="All models of this run"),
            element("p", SPEEDS, kind="faint"),
            drawn,
            drawn and element("p", POINTS, kind="faint"),
        ),
        section("Students", models.students(rows, names)),
        section("Groups of labels", models.groups(rows, names)),
        section("Training", *(_stage(stage, lines) for stage, lines in curves.items())),
        section("What each figure is", models.each(rows, names, hardware)),
        section("Run", _command(config), elements.facts(machine.items())),
        elements.folded("config.json", element("pre", json.dumps(config, indent=2))),
    ]
    write_atomically(path, elements.page(name, parts))


def results(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """The last student beside the teacher of most evaluations, in a sentence or two.

    Nothing where one of them is missing.
    """
    numbered = range(len(rows))
    students = [i for i in numbered if rows[i]["role"] == "student"]
    teachers = [i for i in numbered if rows[i]["role"] == "teacher"]
    if not students or not teachers:
        return []
    mine = students[-1]
    theirs = max(teachers, key=lambda i: finite(rows[i]["nfe"]) or 0)
    student, teacher = rows[mine], rows[theirs]
    text = f"{names[mine]}: {figures.evaluations(student['nfe'])}"
    if student["nfe"] != teacher["nfe"]:
        text += f" where the teacher takes {number_text(teacher['nfe'])}"
    told = [_distance(name, student, teacher) for name in figures.distances(rows)[:2]]
    told += [_speeds(student, teacher)]
    return [" ".join([f"{text}.", *(part for part in told if part)])]


def _distance(name: str, student: Row, teacher: Row) -> str:
    ours, theirs = (finite(row["metrics"].get(name)) for row in (student, teacher))
    if ours is None or theirs is None:
        return ""
    text = f"{name} {number_text(ours)}, the teacher's {number_text(theirs)}"
    times = f" ({ours / theirs:.3g} x)" if theirs > 0 else ""
    about = student.get("seeds")
    seeds = f", {about['headline']} of {len(about['each'])} seeds" if about else ""
    return f"{text}{times}, of {number_text(student['num_images'])} images{seeds}."


def _speeds(student: Row, teacher: Row) -> str:
    """Both ratios: a call costs something beside the network, and more so alone."""
    fast, slow = (finite(row.get("images_per_second")) for row in (student, teacher))
    short, long = (finite(row.get("latency_ms")) for row in (student, teacher))
    if not (fast and slow and short and long):
        return ""
    return (
        f"{fast / slow:.3g} x as many images per second ({number_text(fast)} and"
        f" {number_text(slow)}); one image alone takes {number_text(short)} ms where"
        f" it took {number_text(long)} ms ({long / short:.3g} x)."
    )


def _command(config: Mapping[str, Any]) -> str:
    command = config.get("command")
    if command is None:
        return ""
    text = command if isinstance(command, str) else " ".join(map(str, command))
    return element("pre", text)


def _stage(stage: str, lines: Lines) -> str:
    """The curves of a stage, what tells little folded."""
    found = curve_plots.curves(lines)
    if not found:
        return ""
    shown, folded = (
        [
            elements.figure(curve.name, curve_plots.plot(lines, curve, stage=stage))
            for curve in found
            if curve.matters == matters
        ]
        for matters in (True, False)
    )
    rest = elements.folded("Norms of gradients", _curves(folded))
    return Html(element("h3", stage) + _curves(shown) + rest)


def _curves(plots: Sequence[str]) -> str:
    return f'<div class="curves">{"".join(plots)}</div>' if plots else ""
