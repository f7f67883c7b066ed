"""What a run has written so far, read while it writes, without JAX.

Nothing is written, and no file is trusted to be whole: the last line of a log may be
half there, and what is damaged is left out.
"""

import dataclasses
import os
import pathlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from kdiff_jax import sealed
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.report import metrics_log

Line = Mapping[str, Any]

LIVES = 60.0  # seconds; a run touches its lock every ten
MOST = 400  # lines of a log that are shown, evenly; a log may have a million
OURS = ("config.json", "data.json", "report.json")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: Its name, and that of its folder.
        kind: Kind of the stage, or the method that it trains by.
        is_done: Whether it has finished.
        step: Step of the last line, or number of parts that are made.
        num_steps: Last step, or number of parts; 0 if unknown.
        lines: Lines of losses, oldest first, at most `MOST`.
        figures: Lines of figures measured during training, oldest first.
        picture: The newest picture, None without one.
        touched: When it last wrote, seconds since the epoch; 0 if it has not begun.
    """

    name: str
    kind: str = "train"
    is_done: bool = False
    step: int = 0
    num_steps: int = 0
    lines: tuple[Line, ...] = ()
    figures: tuple[Line, ...] = ()
    picture: pathlib.Path | None = None
    touched: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until its end at the pace of the last lines, None if unknown."""
        timed = [one for one in self.lines[-10:] if "train_seconds" in one]
        if self.is_done or len(timed) < 2 or not self.num_steps:
            return None
        seconds = timed[-1]["train_seconds"] - timed[0]["train_seconds"]
        steps = timed[-1]["step"] - timed[0]["step"]
        if steps <= 0 or not seconds > 0:
            return None
        return (self.num_steps - self.step) * seconds / steps


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as it lies on the disk.

    Attributes:
        name: Name of its recipe, "" if unknown.
        stages: Its stages in order.
        rows: Rows of its report, once there is one.
        picture: `samples.png`, once there is one.
        lives: Whether a process works in it; None if that is not known.
    """

    name: str
    stages: tuple[Stage, ...]
    rows: tuple[Mapping[str, Any], ...] = ()
    picture: pathlib.Path | None = None
    lives: bool | None = None

    @property
    def is_done(self) -> bool:
        """Whether every stage has finished."""
        return bool(self.stages) and all(stage.is_done for stage in self.stages)

    @property
    def current(self) -> Stage | None:
        """The stage at work: of those that have not finished that which wrote last."""
        begun = [s for s in self.stages if s.touched]
        return max(begun, key=lambda s: (not s.is_done, s.touched), default=None)


def read(path: pathlib.Path) -> Run | None:
    """What a workdir or a stage's folder holds; None if there is nothing yet.

    Raises:
        ConfigError: If it is no folder, or holds other things.
        DataError: If it cannot be read.
    """
    try:
        if not path.exists():
            return None
        if not path.is_dir():
            raise ConfigError(f"RUN={path}: is a file; name the workdir of a run")
        names = [name for name in os.listdir(path) if not name.startswith(".")]
        if _is_stage(path):
            return Run("", (_stage(path, {}, {}),), lives=_lives(path.parent))
        stages = _stages(path)
    except OSError as error:
        raise DataError(
            f"RUN={path}: cannot be read ({error.strerror}); let this user read it"
        ) from error
    known = any(name in OURS for name in names) or any(s.touched for s in stages)
    if names and not known:
        raise ConfigError(
            f"RUN={path}: is no workdir of a run (it has no config.json and no stage);"
            " name the folder that --workdir named"
        )
    if not names:
        return None
    picture, config = path / "samples.png", _json(path / "config.json")
    return Run(
        str(_section(config, "config").get("name", "")),
        stages,
        tuple(_rows(path / "report.json")),
        picture if picture.is_file() else None,
        _lives(path),
    )


def _stages(path: pathlib.Path) -> tuple[Stage, ...]:
    """Stages as the config orders them, or as folders tell where it is not there."""
    config = _section(_json(path / "config.json"), "config")
    planned = dict(_planned(config))
    there = [p.name for p in sorted(path.iterdir()) if p.is_dir() and _is_stage(p)]
    there.sort(key=lambda name: _began(path / name))
    names = [*planned, *(name for name in there if name not in planned)]
    found = []
    for name in names:
        section = planned.get(name, {})
        found.append(_stage(path / name, section, _section(config, "train")))
        # Jobs that train one student each have folders of their own.
        for own in sorted((path / name).glob("only_*")):
            one = _stage(own, section, _section(config, "train"))
            found.append(dataclasses.replace(one, name=f"{name}/{own.name}"))
    return tuple(found)


def _planned(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, section) of the stages of a config, rounds written out."""
    sections = _section(config, "stages")
    brought = _section(config, "init").get("teacher", "teacher") != "teacher"
    order = config.get("order", ())
    for name in order if isinstance(order, list) else ():
        section = _section(sections, str(name))
        if name == "teacher" and brought:
            continue
        rounds = _section(section, "rounds")
        if not rounds:
            yield str(name), section
        steps, end = rounds.get("start_steps", 0), rounds.get("end_steps", 1)
        while type(steps) is int and type(end) is int and steps // 2 >= end > 0:
            steps //= 2
            train = dict(_section(section, "train"))
            if steps <= 2 and rounds.get(
                "last_train_steps"
            ):  # as `build.stages.halvings`
                train["num_steps"] = rounds["last_train_steps"]
            yield f"{name}_{steps}", {**section, "train": train}


def _stage(folder: pathlib.Path, section: Line, train: Line) -> Stage:
    """What the folder of a stage holds; it may not be there yet."""
    kind = str(section.get("kind", _section(section, "method").get("name", "train")))
    done, log = (folder / "done.json").is_file(), folder / "metrics.jsonl"
    lines = _lines(log)
    figures = [one for one in lines if "figure_seconds" in one]
    losses = [one for one in lines if "figure_seconds" not in one]
    wanted = _section(section, "train").get("num_steps", train.get("num_steps", 0))
    total = wanted if type(wanted) is int else 0
    step = losses[-1]["step"] if losses else 0
    if kind == "pairs":
        step, total = _shards(folder, section, done)
    if done and step:
        total = step
    pictures = sorted((folder / "samples").glob("*.png"), key=_number)
    own = [folder / name for name in ("samples.png", "reconstructions.png")]
    pictures += [p for p in own if p.is_file() and not pictures]
    return Stage(
        folder.name,
        kind,
        done,
        step=step,
        num_steps=total,
        lines=tuple(losses),
        figures=tuple(figures),
        picture=pictures[-1] if pictures else None,
        touched=_touched(folder),
    )


def _lines(path: pathlib.Path) -> list[Line]:
    """Lines of a log, at most about `MOST`: evenly from all of it, and the last ten."""
    try:
        texts = path.read_bytes().splitlines()
    except OSError:
        return []
    every = max(1, len(texts) // MOST)
    chosen = [
        text
        for i, text in enumerate(texts)
        if i % every == 0 or i >= len(texts) - 10 or b'"figure_seconds"' in text
    ]
    lines = [metrics_log.parse(text.decode(errors="replace")) for text in chosen]
    return [line for line in lines if line is not None]


def _shards(folder: pathlib.Path, section: Line, done: bool) -> tuple[int, int]:
    """(pairs that are there, pairs that there will be)."""
    num = section.get("num_pairs", 0)
    size = section.get("shard_size", 0)
    if type(num) is not int or type(size) is not int:
        return 0, 0
    there = len(list((folder / "train").glob("shard-*/checksums.json")))
    return (num if done else min(num, there * size)), num


def _rows(path: pathlib.Path) -> list[Mapping[str, Any]]:
    rows = _json(path).get("rows", ())
    return [
        r for r in rows if isinstance(r, dict) and isinstance(r.get("metrics"), dict)
    ]


def _json(path: pathlib.Path) -> dict[str, Any]:
    """A sealed dict; {} where it is missing or damaged."""
    try:
        return sealed.parse(path.read_bytes())
    except (OSError, sealed.Damaged):
        return {}


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tree.get(name)
    return found if isinstance(found, dict) else {}


def _is_stage(folder: pathlib.Path) -> bool:
    names = "metrics.jsonl", "done.json", "checkpoints", "train"
    return any((folder / name).exists() for name in names)


def _number(path: pathlib.Path) -> int:
    found = re.fullmatch(r"\d{1,18}", path.stem)
    return int(path.stem) if found else -1


def _began(folder: pathlib.Path) -> float:
    """When its first file that stays was written."""
    times = [_mtime(p) for p in folder.iterdir() if p.is_file()]
    return min(times, default=_mtime(folder))


def _touched(folder: pathlib.Path) -> float:
    """When something was last written in a folder, or one level below."""
    if not folder.is_dir():
        return 0.0
    below = [p for p in folder.iterdir()]
    below += [p for one in below if one.is_dir() for p in one.iterdir()]
    return max(map(_mtime, below), default=_mtime(folder))


def _mtime(path: pathlib.Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _lives(path: pathlib.Path) -> bool | None:
    """Whether a lock is touched by its owner; a run that has ended has none."""
    locks = list(path.glob(".lock*"))
    return any(time.time() - _mtime(lock) < LIVES for lock in locks)
