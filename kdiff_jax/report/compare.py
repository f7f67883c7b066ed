"""Runs side by side: rows of their reports, ranked where figures can be compared."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdiff_jax import sealed
from kdiff_jax.errors import DataError
from kdiff_jax.report import details, figures, summary
from kdiff_jax.report.figures import finite
from kdiff_jax.report.summary import Row

REPORT = "report.json"
OF_PROMPTS = {
    "protocol": details.protocol_text,
    "prompts": details.prompts_text,
    "CLIP": details.clip_text,
}


class Group(NamedTuple):
    """Rows whose figures can be compared.

    Attributes:
        rows: The rows, with the key "run".
        names: How each is called.
        facts: What their figures are of: images, seeds, labels, features, reference.
        apart: Why they are not compared with the first group; "" of the first.
        best: Figure -> place of the best row, where two or more have the figure.
    """

    rows: tuple[Row, ...]
    names: tuple[str, ...]
    facts: Mapping[str, str]
    apart: str
    best: Mapping[str, int]


def read(paths: Sequence[str | os.PathLike]) -> list[dict[str, Any]]:
    """The rows of all runs, each with the key "run".

    Args:
        paths: Working folders of runs, their reports, or rows that `evaluate` wrote.

    Raises:
        DataError: Names the run without a report, or whose report is damaged.
    """
    texts = [os.fspath(path) for path in paths]
    found = []
    for text, run in zip(texts, _short(texts), strict=True):
        path = pathlib.Path(os.path.expanduser(text))
        rows = _rows(text, path / REPORT if path.is_dir() else path)
        found += [{**row, "run": run} for row in rows]
    return found


def groups(rows: Sequence[Row]) -> list[Group]:
    """Rows of one kind of figure together, the largest group first.

    A distance depends on the number of images, on whether it is of one seed, the best
    or the mean of several, on how labels were chosen, on the features with their
    weights and preprocessing, and on what it is a distance to. Where one of these
    differs, or is not known of rows of two runs, the better number tells nothing.
    """
    kinds: dict[tuple, list[Row]] = {}
    texts = {name: [of(row) for row in rows] for name, of in OF_PROMPTS.items()}
    # Of rows that say nothing of prompts, nothing is said of them; and figures that are
    # no CLIP scores do not depend on a CLIP.
    told = {name: found for name, found in texts.items() if any(found)}
    if len({*texts["CLIP"]} - {""}) < 2:
        told.pop("CLIP", None)
    for i, row in enumerate(rows):
        own = {name: found[i] or "none" for name, found in told.items()}
        kinds.setdefault(tuple((facts(row) | own).items()), []).append(row)
    ordered = sorted(kinds.items(), key=lambda item: -len(item[1]))
    names = dict(zip(map(id, rows), _names(rows), strict=True))
    first = dict(ordered[0][0]) if ordered else {}
    return [
        Group(
            tuple(own),
            tuple(names[id(row)] for row in own),
            dict(kind),
            _apart(dict(kind), first),
            best(own),
        )
        for kind, own in ordered
    ]


def facts(row: Row) -> dict[str, str]:
    """What the figures of a row are of: rows may be compared where all are equal."""
    number = row.get("num_images")
    known = {
        "images": details.UNKNOWN if number is None else f"{number:,}",
        "figures": _headline(row),
        "labels": _labels(row),
        "features": details.features_text(row),
        "reference": _reference(row),
    }
    # Two runs that say nothing may have been measured in two ways.
    unknown = f"{details.UNKNOWN} by {row.get('run', '')}"
    return {
        name: unknown if text == details.UNKNOWN else text
        for name, text in known.items()
    }


def best(rows: Sequence[Row]) -> dict[str, int]:
    """Figure -> place of the row that has the best, if two rows or more have it."""
    found = {}
    for name in details.figure_names(rows):
        values = [finite(row["metrics"].get(name)) for row in rows]
        place = figures.best(values, name)
        if place is not None and len(values) - values.count(None) > 1:
            found[name] = place
    return found


def _apart(own: Mapping[str, str], first: Mapping[str, str]) -> str:
    told = (
        f"{name} {own[name]}, and {first[name]} above"
        for name in own
        if own[name] != first[name]
    )
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", "; ".join(told))


def _headline(row: Row) -> str:
    """The best of several seeds is better than one of them, and than their mean.

    A mean spreads less than one seed, and the lowest of many means is not as low.
    """
    about = row.get("seeds")
    if not isinstance(about, Mapping):
        return "of one seed"
    by = f" by {about['by']}" if about.get("by") else ""
    return f"{about['headline']} of {len(about['each'])} seeds{by}"


def _labels(row: Row) -> str:
    """How labels were chosen; rows of before there was a choice have all the same."""
    if row.get("sampler") == "images":
        return "of images that were there"
    if "labels" not in row:
        return "not recorded, when there was one protocol"
    return str(row["labels"] or "none")


def _reference(row: Row) -> str:
    """The reference by its fingerprint, whatever its file is called."""
    about = row.get("compared_with")
    if not isinstance(about, Mapping):
        return details.UNKNOWN
    fingerprint = about.get("data") or about.get("statistics")
    if not fingerprint:
        return details.UNKNOWN
    number, shape = about.get("num_images"), about.get("image_shape")
    parts = [f"{number:,} images"] if number is not None else []
    parts += ["x".join(map(str, shape))] if shape else []
    # The digest of a folder is that of its files, before they are cropped and resized.
    prepared = about.get("prepared")
    done = prepared.items() if isinstance(prepared, Mapping) else ()
    parts += [f"{name} {value}" for name, value in done if value]
    return ", ".join([*parts, f"sha256 {str(fingerprint).removeprefix('sha256:')}"])


def _rows(text: str, path: pathlib.Path) -> list[dict[str, Any]]:
    way_out = (
        "run its recipe with the stage that evaluates, or write a row: python -m"
        " kdiff_jax.evaluate --checkpoint=PATH --reference=DATA --output=FILE.json"
    )
    what = f"compare={text}"
    if not path.exists():
        raise DataError(f"{what}: there is no {path.name}; {way_out}")
    try:
        content = sealed.parse(path.read_bytes())
    except (OSError, sealed.Damaged) as damage:
        raise DataError(
            f"{what}: {path.name} is damaged ({damage}); {way_out}"
        ) from None
    rows = content.get("rows", [content])
    if not isinstance(rows, list) or not rows or not all(map(_is_row, rows)):
        raise DataError(f"{what}: {path.name} holds no rows of a report; {way_out}")
    machine = content.get("hardware") if "rows" in content else None
    return [_filled(row, machine, path) for row in rows]


def _is_row(row: Any) -> bool:
    """Whether it has what a comparison reads, of a report or of `evaluate`."""
    return (
        isinstance(row, dict)
        and {"sampler", "nfe", "metrics"} <= row.keys()
        and bool(row.keys() & {"stage", "checkpoint"})
        and isinstance(row["metrics"], dict)
    )


def _filled(row: dict, machine: Any, path: pathlib.Path) -> dict[str, Any]:
    """A row with what pages read: stage and role; devices of a report of before."""
    stage = row.get("stage") or pathlib.PurePath(str(row.get("checkpoint"))).name
    absent = dict.fromkeys(("method", "train_seconds"))
    found = {"role": "", **absent, **row, "stage": stage}
    if not row.get("features") and _all_of_pixels(row["metrics"]):
        found["features"] = {"name": "pixels", "preprocessing": "default"}
    if machine and "measured" not in row:
        found["measured"] = machine
    if not isinstance(row.get("compared_with"), Mapping) and "checkpoint" not in row:
        found["compared_with"] = _data_of(path.parent)
    return found


def _all_of_pixels(metrics: dict) -> bool:
    """Whether all figures are of pixels, which need no weights and no resizing."""
    return bool(metrics) and all("pixels" in name.split("_") for name in metrics)


def _data_of(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The reference of a report of before: the data of its run."""
    try:
        data = sealed.parse((workdir / "data.json").read_bytes())
    except (OSError, sealed.Damaged):
        return None
    about = {"num_images": data.get("num_images"), "image_shape": data.get("shape")}
    return {**about, "data": data.get("sha256")}


def _names(rows: Sequence[Row]) -> list[str]:
    """RUN/STAGE, with the evaluations where a run has several of a stage."""
    own: dict[str, list[Row]] = {}
    for row in rows:
        own.setdefault(str(row["run"]), []).append(row)
    named = {
        id(row): f"{run}: {name}" if name != run else name
        for run, of_run in own.items()
        for row, name in zip(of_run, figures.names(of_run), strict=True)
    }
    return [named[id(row)] for row in rows]


def _short(texts: Sequence[str]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    trimmed = [pathlib.PurePath(text) for text in texts]
    trimmed = [path.parent if path.name == REPORT else path for path in trimmed]
    trimmed = [p.with_suffix("") if p.suffix == ".json" else p for p in trimmed]
    parts = [path.parts or (str(path),) for path in trimmed]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{text} ({i})" for i, text in enumerate(texts, 1)]


def as_json(found: Sequence[Group]) -> dict[str, Any]:
    """The comparison in plain values."""
    return {
        "groups": [
            {
                "facts": dict(group.facts),
                "apart": group.apart,
                "rows": list(group.rows),
                "best": {name: group.names[i] for name, i in group.best.items()},
            }
            for group in found
        ]
    }


def markdown(found: Sequence[Group]) -> str:
    """The comparison as Markdown tables, the best of each figure in bold."""
    parts = []
    for group in found:
        head, *body = summary.table([{**r, "role": r["role"]} for r in group.rows])
        # The name says run and stage; a role is not known of every row.
        head = ["model", *head[3:]]
        body = [[n, *c[3:]] for n, c in zip(group.names, body, strict=True)]
        for figure, place in group.best.items():
            column = head.index(figure)
            body[place][column] = f"**{body[place][column]}**"
        title = f"Not compared with the first table: {group.apart}." * bool(group.apart)
        told = "; ".join(f"{name}: {text}" for name, text in group.facts.items())
        parts.append("\n\n".join([p for p in (title, told) if p]))
        parts.append(summary.markdown([head, *body], first_number=2))
        told = zip(group.names, group.rows, strict=True)
        parts.append(
            "\n".join(f"* {name}: {details.in_short(row)}" for name, row in told)
        )
    return "\n\n".join(parts) + "\n"
