"""What a figure needs beside it, in words: of what, how many, with which weights."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kdiff_jax.report import figures
from kdiff_jax.report.figures import finite
from kdiff_jax.report.progress import duration
from kdiff_jax.report.summary import Row, number_text, of_seeds

UNKNOWN = "not recorded"


def of_row(
    row: Row, hardware: Mapping[str, Any] | None = None
) -> list[tuple[str, str]]:
    """(name, text) of each fact; what a row of before does not hold says so.

    Args:
        row: A row of a report, or one that `evaluate` wrote.
        hardware: Hardware of the report, for a row that has none of its own.
    """
    measured = row.get("measured") or {}
    machine = {**(hardware or {}), **measured}
    return [
        *((name, _figure(row, name)) for name in figure_names([row])),
        ("images", f"{_text(row, 'num_images')}, {seeds_text(row)}"),
        *_nearest(row),
        *([("labels", labels_text(row))] if row.get("labels") else []),
        *((name, told) for name, told in of_prompts(row) if told),
        ("features", features_text(row)),
        ("reference", reference_text(row)),
        ("weights of the model", average_text(row)),
        ("sampler", sampler_text(row)),
        ("evaluations of the network", _text(row, "nfe")),
        ("images a second", speed_text(row)),
        ("one image alone", latency_text(row)),
        *([("its memory", memory_text(row))] if row.get("memory") else []),
        ("multiply-adds", f"{_text(row, 'macs')} an evaluation of one image"),
        ("parameters", _parameters(row)),
        ("precision", str(row.get("precision") or UNKNOWN)),
        ("training", _training(row)),
        ("device", device_text(machine)),
        ("measured", " ".join(_when(measured)) or UNKNOWN),
    ]


def in_short(row: Row) -> str:
    """In one line what a table of figures leaves out: seed, weights, device, time."""
    measured = row.get("measured") or {}
    labels = row.get("labels")
    parts = [
        seeds_text(row),
        *([f"labels {labels}"] if labels else []),
        *(f"{name} {told}" for name, told in of_prompts(row) if told),
        f"weights: {average_text(row)}",
        sampler_text(row),
        str(row.get("precision") or UNKNOWN),
        device_text(measured),
        " ".join(_when(measured)) or UNKNOWN,
    ]
    return "; ".join(parts)


def figure_names(rows: Sequence[Row]) -> list[str]:
    """The figures that any row has, without what tells their spread."""
    found = dict.fromkeys(name for row in rows for name in row["metrics"])
    return [name for name in found if figures.is_figure(name)]


def spread_text(metrics: Mapping[str, Any], name: str) -> str:
    """The spread of a figure: "0.139 to 0.148" or "± 0.002"; "" without one."""
    found = figures.spread(metrics, name)
    if found is None:
        return ""
    kind, low, high = found
    if kind == "std":
        return f"± {number_text(low)}"
    return f"{number_text(low)} to {number_text(high)}"


def beside_text(row: Row, name: str) -> str:
    """What stands below a figure: its spread, and the same of all seeds."""
    told = spread_text(row["metrics"], name), of_seeds(row, name)
    return "; ".join(text for text in told if text)


def seeds_text(row: Row) -> str:
    """The seed of the figures, of one or several that were measured."""
    about, seed = row.get("seeds"), f"seed {_text(row, 'seed')}"
    if not isinstance(about, Mapping):
        return seed
    each = ", ".join(str(one["seed"]) for one in about["each"])
    if about["headline"] == "mean":
        return f"mean of seeds {each}"
    return f"{seed}, the best of seeds {each} by {about['by']}"


def labels_text(row: Row) -> str:
    """How the labels of the images were chosen."""
    told = {"arange": "image i has i mod the number of classes"}
    name = str(row["labels"])
    return f"{name}: {told.get(name, 'drawn for each image')}"


def of_prompts(row: Row) -> list[tuple[str, str]]:
    """(name, text) of what is said of models of prompts alone; "" where nothing is."""
    told = protocol_text(row), prompts_text(row), clip_text(row)
    return list(zip(("protocol", "prompts", "CLIP"), told, strict=True))


def protocol_text(row: Row) -> str:
    """The protocol of a paper, and what was chosen otherwise; "" without one."""
    about = row.get("protocol")
    if not isinstance(about, Mapping):
        return ""
    changed = ", ".join(f"{k}={v}" for k, v in (about.get("changed") or {}).items())
    return f"{about['name']}, but {changed}" if changed else str(about["name"])


def prompts_text(row: Row) -> str:
    """The prompts of a file, by their digest; "" where images were asked by labels."""
    about = row.get("prompts")
    if not isinstance(about, Mapping):
        return ""
    return f"{number_text(about['num'])}, sha256 {about['sha256']}"


def clip_text(row: Row) -> str:
    """The CLIP of the CLIP score; "" without one."""
    about = row.get("clip")
    if not isinstance(about, Mapping):
        return ""
    return f"{about['name']}, sha256 {about['parameters_sha256']}"


def memory_text(row: Row) -> str:
    """The memory that one image alone takes, as XLA plans it."""
    about = row["memory"]
    total = about["arguments"] + about["working"]
    weights, most = (f"{x / 2**20:,.1f} MB" for x in (about["arguments"], total))
    return f"{most}, {weights} of it weights and what it is asked for"


def features_text(row: Row) -> str:
    """The features that the figures are of, and their weights."""
    about = row.get("features")
    if not isinstance(about, Mapping):
        return UNKNOWN
    weights = _digest(about.get("weights_sha256"), "weights sha256 ")
    parts = about.get("name"), about.get("preprocessing"), weights
    return ", ".join(str(part) for part in parts if part) or UNKNOWN


def reference_text(row: Row) -> str:
    """What the images were compared with."""
    about, named = row.get("compared_with"), row.get("reference")
    parts = [str(named)] if isinstance(named, str) else []
    if isinstance(about, Mapping):
        if about.get("num_images") is not None:
            parts.append(f"{number_text(about['num_images'])} images")
        parts.append(_digest(about.get("data"), "data sha256 "))
        parts.append(_digest(about.get("statistics"), "statistics sha256 "))
    return ", ".join(part for part in parts if part) or UNKNOWN


def average_text(row: Row) -> str:
    """Of which weights: a moving average, or the last ones."""
    name = row.get("average")
    if not name:
        return UNKNOWN
    return "the last ones" if name == "params" else f"moving average {name!r}"


def sampler_text(row: Row) -> str:
    """The sampler with its keywords."""
    options = row.get("sampler_options") or {}
    keywords = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"{row['sampler']}({keywords})" if keywords else str(row["sampler"])


def speed_text(row: Row) -> str:
    """Images a second: the median, its quartiles, and how many at once."""
    size = (row.get("timing") or {}).get("batch_size")
    at_once = f", {number_text(size)} at once" if size else ""
    return (
        _text(row, "images_per_second") + _quartiles(row, "images_per_second") + at_once
    )


def latency_text(row: Row) -> str:
    """Milliseconds of one image: the median and its quartiles."""
    return f"{_text(row, 'latency_ms')} ms{_quartiles(row, 'latency_ms')}"


def quartiles(row: Row, name: str) -> tuple[float, float] | None:
    """(lower, upper) of a speed over its rounds, where the row has them."""
    spread = (row.get("timing") or {}).get(name) or {}
    low, high = finite(spread.get("low")), finite(spread.get("high"))
    return None if low is None or high is None else (low, high)


def device_text(machine: Mapping[str, Any]) -> str:
    """The devices, as "2 x cpu"."""
    if "device" not in machine:
        return UNKNOWN
    hosts = machine.get("num_hosts", 1)
    text = f"{machine.get('num_devices', 1)} x {machine['device']}"
    text += f" on {hosts} hosts" if hosts > 1 else ""
    cpus = machine.get("num_cpus")
    return f"{text}, {machine.get('machine', '')}, {cpus} cores" if cpus else text


def _figure(row: Row, name: str) -> str:
    told = beside_text(row, name)
    return number_text(row["metrics"][name]) + (f" ({told})" if told else "")


def _nearest(row: Row) -> list[tuple[str, str]]:
    """How near training images are to samples, and to each other."""
    about = row.get("neighbours")
    if not isinstance(about, Mapping) or not all(about["distances"]):
        return []
    first = [distances[0] for distances in about["distances"]]
    text = f"at {number_text(statistics.median(first))} of {len(first)} samples"
    text += f" (median, by {about['features']['name']})"
    if about.get("typical") is not None:
        text += f"; of training images themselves at {number_text(about['typical'])}"
    return [("nearest training image", text)]


def _quartiles(row: Row, name: str) -> str:
    ends = quartiles(row, name)
    if ends is None:
        return ""
    low, high = map(number_text, ends)
    return f" (median; half of the rounds {low} to {high})"


def _parameters(row: Row) -> str:
    one, several = _text(row, "num_params"), row.get("num_students") or 1
    if several == 1:
        return one
    return (
        f"{one} in each of {several} students, {_text(row, 'num_params_total')} in all"
    )


def _training(row: Row) -> str:
    steps, seconds = row.get("train_steps"), row.get("train_seconds")
    if steps is None:
        return UNKNOWN
    text = f"{row.get('method')}, {number_text(steps)} steps"
    return text if seconds is None else f"{text}, {duration(seconds)}"


def _when(measured: Mapping[str, Any]) -> list[str]:
    time, commit = measured.get("time"), measured.get("git_commit")
    return [str(time)] * bool(time) + [f"commit {commit}"] * bool(commit)


def _digest(value: Any, before: str) -> str:
    return before + str(value).removeprefix("sha256:") if value else ""


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    return UNKNOWN if value is None else number_text(value)
