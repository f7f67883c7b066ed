"""W/config.json: what a workdir was made with, and what changed while it was made.

A changed config is refused, or with `--force_config_change` taken for what is still to
be done. It is refused all the same where the workdir would then hold what no config has
made: a finished stage stays only if nothing of it has changed, and one that has begun
may change its optimizer and become longer.
"""

import logging
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax

from kdiff_jax import build, methods, sealed
from kdiff_jax.build import Stage, sections
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop import steps as step_folders
from kdiff_jax.report import environment
from kdiff_jax.stages import Job, is_done

log = logging.getLogger(__name__)

# How often things are written, and where files lie, may change between two calls.
FREE = (
    "cpu_devices",
    "log_every",
    "sample_every",
    "save_every",
    "save_minutes",
    "steps_per_dispatch",
    "layout",  # checkpoints are the same in all
    "keep",
    "spike_factor",
    "spike_lines",
    "hang_minutes",
    "tracker",
    "path",  # a data set may move
    "conditions",  # and the table beside it, whose content counts
    "weights",
    "fetch",
    "only",  # jobs of a queue share a workdir
)
# Encoders and caches may move, too; that they are the same is seen in `same_data`.
MOVABLE = tuple(f"data.{name}" for name in ("autoencoder", "latents", "text_encoder"))
# What may change of a stage that has begun: no shape, no file and no meaning of what is
# there depends on it. `train.num_steps` may too, down to the step that is reached.
LATER = (
    *("optim.lr", "optim.b1", "optim.b2", "optim.eps", "optim.schedule"),
    *("optim.warmup_steps", "train.validate_every", "train.num_microbatches"),
)
Change = tuple[str, Any, Any]  # path below the config, value before, value now


def write(job: Job, force: bool, overrides) -> None:
    """Writes the record, or adds to it what has changed.

    Raises:
        ConfigError: If the workdir is of another config and `force` is not given, or
            what is there could not be told from what the changed config makes.
    """
    path = job.workdir / "config.json"
    about: dict[str, Any] = {"config": job.recipe.config, "changes": []}
    if path.is_file():
        about = _recorded(path)
        before = _with_later_options(about["config"], job.recipe.config)
        found = differences(_identity(before), _identity(job.recipe.config))
        changes = [change for change in found if not _moved(*change)]
        if not changes:
            return  # the record of how it began stays
        _check(job, changes, force)
        about["config"] = job.recipe.config
        about["changes"] = [*about.get("changes", []), _entry(job, changes, overrides)]
    else:
        about |= {
            "overrides": overrides or {},
            "command": sys.argv,
            "versions": environment.versions(),
            "hardware": environment.hardware(),
        }
    if jax.process_index() == 0:
        sealed.write_json(path, about)


def _entry(job: Job, changes: list[Change], overrides) -> dict[str, Any]:
    """One line of the history: values before and now, and from which step they hold."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": sys.argv,
        "overrides": overrides or {},
        "values": {key: [before, now] for key, before, now in changes},
        "from_step": {s.name: reached(job, s) for s in job.stages},
        "done": [s.name for s in job.stages if is_done(job.left(s.name))],
    }


def _check(job: Job, changes: list[Change], force: bool) -> None:
    said = [f"config.{key} was {old!r}, is {now!r}" for key, old, now in changes]
    if not force:
        raise ConfigError(
            f"workdir {job.workdir} holds a run of another config: "
            f"{'; '.join(said[:5])}; take another --workdir, or --force_config_change"
        )
    for stage in job.stages:
        mine = [c for c in changes if concerns(c[0], stage)]
        step, done = reached(job, stage), is_done(job.left(stage.name))
        for key, old, now in mine:
            why = _why_untrue(stage, key, old, now, step, done)
            if why:
                raise ConfigError(
                    f"--force_config_change: config.{key} was {old!r}, is {now!r}, and"
                    f" {why}; delete {_folders(job, stage)}, or take another --workdir"
                )
        if done:
            log.info("%s: is done and kept, nothing of it has changed", stage.name)
        for key, old, now in mine:
            where = f"from step {step}" if step else "from its start"
            log.info("%s: config.%s was %r, is %r %s", stage.name, key, old, now, where)


def _why_untrue(stage: Stage, key: str, old, now, step: int, done: bool) -> str:
    """Why a stage that is there cannot go on with another value; "" if it can."""
    if done:
        return f"stage {stage.name} was finished with the old value"
    if not step:
        return ""
    name = key.removeprefix("stages.").partition(".")[2]
    if name == "train.num_steps":
        short = now is None or now < step
        return f"stage {stage.name} is already at step {step}" if short else ""
    role_key = "optim." + key.rpartition(".")[2] if ".roles." in key else name
    if role_key in LATER and old is not None and now is not None:
        return ""
    return f"stage {stage.name} has begun with the old value"


def concerns(key: str, stage: Stage) -> bool:
    """Whether a value, by its path, is one that the stage is made with."""
    section, _, rest = key.partition(".")
    if stage.kind == "autoencoder" and section != "stages":
        return section in ("train", "data", "precision", "seed")
    if stage.kind == "latents" and section != "stages":
        return section in ("data", "precision")
    if section == "stages":
        name = rest.partition(".")[0]
        return name == stage.name or stage.name.rpartition("_")[0] == name
    if section in ("train", "partition", "evaluate", "init"):
        training = stage.kind == "train"
        if section == "partition":
            return stage.kind != "pairs" and (not training or stage.partition)
        if section == "init":
            return stage.name != "teacher"
        return training == (section == "train") and stage.kind != "pairs"
    if section == "data":
        return stage.kind == "evaluate" or (stage.kind == "train" and not stage.pairs)
    return section in ("model", "precision", "seed")


def reached(job: Job, stage: Stage) -> int:
    """The newest step of a training stage; 1 where another kind has begun; else 0."""
    folder = job.folder(stage.name)
    saves = stage.kind in ("train", "autoencoder")
    steps = folder / "checkpoints" if saves else folder
    if not steps.is_dir():
        return 0
    if not saves:
        return int(any(steps.iterdir()))
    return max(step_folders.of(steps), default=0)


def _folders(job: Job, stage: Stage) -> str:
    """The folder of a stage and of those after it, as far as they are there."""
    after = job.stages[job.stages.index(stage) :]
    folders = [job.workdir / s.name for s in after]
    return ", ".join(str(folder) for folder in folders if folder.exists())


def _recorded(path: pathlib.Path) -> dict[str, Any]:
    """What W/config.json holds.

    Raises:
        ConfigError: If it is damaged, or the folder is no workdir.
    """
    way_out = (
        "if this is the config that the workdir was begun with, delete the file and run"
        " the same command again, which writes it anew"
    )
    record = sealed.read_json(path, error=ConfigError, way_out=way_out)
    config = record.get("config")
    names = ("model", "stages", "data", "train", "evaluate")  # of every recipe
    if not isinstance(config, dict) or not all(
        isinstance(config.get(name, {}), dict) for name in names
    ):
        raise ConfigError(
            f"--workdir={path.parent}: is no workdir of a run, its {path.name} is of"
            " something else; take another --workdir"
        )
    return record


def _with_later_options(before, now):
    """A record of an earlier version, whose options of today had their defaults."""
    kinds = {"data": sections.Data, "train": sections.Train, "model": sections.Model}
    for name, kind in (kinds | {"evaluate": sections.Evaluate}).items():
        had, has = before.get(name, {}), now.get(name, {})
        before = {**before, name: _with_defaults(had, has, kind)}
    stages = dict(before.get("stages", {}))
    for name, section in stages.items():
        had = section.get("method", {})
        has = now["stages"].get(name, {}).get("method", {})
        if had and had.get("name") == has.get("name"):
            whole = _with_defaults(had, has, methods.make_function(had["name"]))
            stages[name] = {**section, "method": whole}
    return {**before, "stages": stages}


def _with_defaults(had, has, function) -> dict[str, Any]:
    """A section with the keywords that came later, at their defaults."""
    defaults = build.defaults(function).items()
    return {**had, **{k: v for k, v in defaults if k in has and k not in had}}


def _moved(key: str, old, now) -> bool:
    return key in MOVABLE and bool(old) and bool(now)


def _identity(tree):
    if isinstance(tree, Mapping):
        return {k: _identity(v) for k, v in tree.items() if k not in FREE}
    # Defaults are as the code has them, and the record as JSON does.
    return list(tree) if isinstance(tree, tuple) else tree


def differences(before, now, path: str = "") -> list[Change]:
    """The values that differ between two trees."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = []
        for key in sorted(before.keys() | now.keys()):
            below = f"{path}.{key}" if path else key
            found += differences(before.get(key), now.get(key), below)
        return found
    return [] if before == now else [(path, before, now)]
