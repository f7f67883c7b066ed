"""A run as a terminal shows it: stages, losses, distances, a picture."""

import math
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdiff_jax.report import blocks, figures
from kdiff_jax.report.progress import duration
from kdiff_jax.report.watched import Line, Run, Stage

CURVES = 8  # of the losses of a stage
SMALLEST = 8  # lines of a picture in which anything can be seen
# Of a line these are no losses.
RATES = ("images", "images_per_second", "train_seconds", "time", "step")


def page(
    run: Run,
    console: Console,
    *,
    pictures: bool = True,
    fits: bool = False,
    now: float | None = None,
) -> RenderableType:
    """Everything about a run, for a console of any width and kind.

    Args:
        run: The run.
        console: Where it is shown: its width, colours and letters are kept to.
        pictures: Whether pictures are shown where the console has colours.
        fits: Whether all of it must fit the console's height.
        now: Seconds since the epoch; None asks the clock.
    """
    now = time.time() if now is None else now
    plain = not _draws(console)
    parts: list[RenderableType] = [_title(run, now), _stages(run, plain)]
    stage = run.current
    if stage is not None and stage.lines:
        parts += [_heading(f"{stage.name}: losses"), _curves(stage, plain)]
    if stage is not None and stage.figures:
        parts += [_heading(f"{stage.name}: figures"), _figures(stage, plain)]
    if run.rows:
        parts += [_heading("report"), _report(run.rows)]
    if (path := _picture(run)) is not None:
        parts.append(_heading(f"picture: {path.parent.name}/{path.name}"))
        if pictures and not plain and console.color_system:
            used = len(console.render_lines(Group(*parts))) if fits else 4
            rows = console.height - used - 1
            if rows >= SMALLEST:
                found = blocks.picture(path, console.width, rows)
                parts += [found] if found is not None else []
    return Group(*parts)


def _draws(console: Console) -> bool:
    """Whether it has the letters of curves."""
    try:
        blocks.LEVELS.encode(console.encoding)
        return True
    except (UnicodeEncodeError, LookupError):
        return False


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _title(run: Run, now: float) -> Text:
    text = Text(run.name or "run", style="bold")
    quiet = now - max((stage.touched for stage in run.stages), default=now)
    if run.is_done:
        text.append("  done", "green")
    elif run.lives:
        text.append("  running", "green")
    else:
        text.append("  not running", "yellow")
    if not run.is_done:
        text.append(f", wrote last {duration(max(quiet, 0))} ago", "dim")
    return text


def _stages(run: Run, plain: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for stage in run.stages:
        current = stage is run.current and not run.is_done
        mark = "done" if stage.is_done else "" if not stage.touched else "begun"
        if current and run.lives:
            mark = "now"
        style = "green" if stage.is_done else "bold" if current else ""
        table.add_row(
            Text(mark, style), Text(stage.name, style), Text(stage.kind, "dim"),
            _bar(stage, plain), Text(_steps(stage)), Text(_pace(stage, run.lives)),
        )  # fmt: skip
    return table


def _bar(stage: Stage, plain: bool) -> RenderableType:
    total = stage.num_steps or (1 if stage.is_done else 0)
    if plain or not total or not stage.touched:
        return Text("")
    return ProgressBar(total, total if stage.is_done else stage.step, width=16)


def _steps(stage: Stage) -> str:
    if not stage.num_steps:
        return ""
    return f"{stage.step}/{stage.num_steps}" if stage.touched else f"{stage.num_steps}"


def _pace(stage: Stage, lives: bool | None) -> str:
    if not stage.lines:
        return ""
    last = stage.lines[-1]
    if stage.is_done:
        seconds = _number(last.get("train_seconds"))
        return "" if math.isnan(seconds) else f"in {duration(seconds)}"
    told = []
    if _is_number(rate := last.get("images_per_second")):
        told.append(f"{rate:.4g} images/s")
    if (left := stage.seconds_left) is not None:
        told.append(f"{duration(left)} left" + ("" if lives else " once it runs"))
    return "  ".join(told)


def _curves(stage: Stage, plain: bool) -> Table:
    """The last value, the curve and the range of each loss."""
    table = Table.grid(padding=(0, 2, 0, 0))
    names = _losses(stage.lines)
    for name in names[:CURVES]:
        values = [_number(line.get(name)) for line in stage.lines if name in line]
        known = [v for v in values if math.isfinite(v)]
        ends = f"{min(known):.4g} to {max(known):.4g}" if known else "not finite"
        curve = "" if plain else blocks.curve(values)
        last = Text(f"{values[-1]:.4g}", justify="right")
        table.add_row(Text(name), last, Text(curve, "cyan"), Text(ends, "dim"))
    if len(names) > CURVES:
        table.add_row(Text(f"and {len(names) - CURVES} more", "dim"))
    return table


def _losses(lines: Sequence[Line]) -> list[str]:
    """Names of losses before those of other metrics; without single students."""
    found = dict.fromkeys(name for line in lines for name in line)
    names = [
        name
        for name in found
        if name not in RATES and not name.rpartition("/")[2].isdigit()
    ]
    return sorted(names, key=lambda name: (not name.endswith("loss"), "norm" in name))


def _figures(stage: Stage, plain: bool) -> Table:
    """The last and the best value of each figure that was measured in training."""
    table = Table.grid(padding=(0, 2, 0, 0))
    names = dict.fromkeys(name for line in stage.figures for name in line)
    for name in names:
        if name in RATES or name == "figure_seconds":
            continue
        lines = [line for line in stage.figures if name in line]
        values = [_number(line[name]) for line in lines]
        best = figures.best(values, name)
        told = (
            "" if best is None else f"best {values[best]:.4g} at {lines[best]['step']}"
        )
        curve = "" if plain else blocks.curve(values)
        last = Text(f"{values[-1]:.4g}", justify="right")
        table.add_row(Text(name), last, Text(curve, "cyan"), Text(told, "dim"))
    return table


def _report(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Evaluations and distances of each row of the report."""
    names = figures.distances(rows)[:3]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(*(Text(t, "dim") for t in ("", "evaluations", *names)))
    for row in rows:
        values = (_number(row["metrics"].get(name)) for name in names)
        told = ("" if math.isnan(v) else f"{v:.4g}" for v in values)
        about = (str(row.get("stage", "")), str(row.get("nfe", "")))
        table.add_row(*(Text(text) for text in (*about, *told)))
    return table


def _picture(run: Run) -> pathlib.Path | None:
    if run.is_done and run.picture is not None:
        return run.picture
    return next(_pictures(run), run.picture)


def _pictures(run: Run) -> Iterator[pathlib.Path]:
    """Of the stages, that which wrote last first."""
    for stage in sorted(run.stages, key=lambda s: -s.touched):
        if stage.picture is not None:
            yield stage.picture


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _number(value) -> float:
    return float(value) if _is_number(value) else math.nan
