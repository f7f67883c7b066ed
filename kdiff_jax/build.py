"""ConfigDict -> objects: the only module that knows ml_collections.

A config has shared sections (`model`, `data`, `init`, `train`, `evaluate`) and
`stages`, run in the order of `config.order`. A section is the keywords of one function.
"""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import Any, get_args

import ml_collections
import numpy as np
from ml_collections import config_dict

from kdiff_jax import methods, models
from kdiff_jax.data import images
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import steps_per_update
from kdiff_jax.train import inputs, optim
from kdiff_jax.train.loop import Programs

KINDS = ("train", "pairs", "evaluate")


RESULTS = ("params", "ema", "best")
# The section `train`, of the whole config or of a stage; beside these a stage has
# num_steps and batch_size (global). Counts are steps.
TRAIN = {
    "result": "params",  # what the stage leaves: "params", "ema", or "best" of the ema
    "log_every": 100,
    "sample_every": 1000,
    "save_every": 5000,
    "save_minutes": 10.0,
    "validate_every": 1000,  # for "best"
    "num_microbatches": 1,  # of gradient accumulation
    "steps_per_dispatch": 0,  # 0: 1 on the CPU, 10 on accelerators
    "keep": 2,  # newest checkpoints; one that is known to be good is kept beside them
    # A divergence: a loss or a norm of gradients above `spike_factor` times its usual
    # size in `spike_lines` lines of the log in turn, or in the last; a factor of 0 is
    # never.
    "spike_factor": 100.0,
    "spike_lines": 3,
    "hang_minutes": 60.0,  # without a sign of life, the run ends; 0 is never
}


# The section `evaluate`, of the whole config or of a stage.
EVALUATE = {
    "num_images": 10_000,
    "features": "pixels",  # "" compares nothing: speed and pictures alone
    "weights": "",  # the file of the feature network
    "batch_size": 250,
    "seed": 1,
}
# The section `data`; a source may take more.
DATA = {
    "path": "",
    "split": "train",
    "size": 0,  # 0 keeps the images as they are
    "use_labels": True,
    "channels": 0,  # 1 or 3 converts the images, 0 keeps them
    "background": "white",  # below transparent pixels
    "flip": False,
    "augment_prob": 0.0,
}
# The section `partition`, of recipes with several students: the keywords of
# `partition.make`, and whom to train. A training stage belongs to it with
# `partition=True`; there, `filter_data` says whether the students see examples of their
# own classes alone, by default all but pairs beside a loss on labels.
PARTITION = {
    "num_groups": 1,  # of classes
    "rule": "consecutive",
    "table": (),  # the group of each class, for the rule "table"
    "seed": 0,  # of the rules "random" and "kmeans"
    "embeddings": "",  # .npy of [classes, D], for "kmeans", "pca"; "": the teacher's
    "num_ranges": 1,  # of the time
    "spacing": "even",
    # and "only": the one student to train, beside other jobs; None for all
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a recipe, with everything that it needs to know as plain values.

    Attributes:
        name: Of its folder.
        kind: "train", "pairs" or "evaluate".
        config: Its section of the config.
        init: role -> stage name or path that the role's parameters come from, or
            "stage/role": that role of the stage's last checkpoint, weights alone.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    init: Mapping[str, str]


def plain(config) -> dict[str, Any]:
    """A ConfigDict as plain, JSON-able values."""
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    return json.loads(json.dumps(config))


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with every default in it, so that all can be seen and changed.

    Defaults come from the functions that the sections are for. A value that is None by
    default becomes a placeholder of its type.
    """
    model = dict(config["model"])
    name = model["network"]["name"]
    given_by_build = ("out_channels", "num_classes", "augment_dim")
    fields = _defaults(models.make_function(name), leave_out=given_by_build)
    model["network"] = {**fields, **model["network"]}
    model = {"augment_dim": 0, **model}
    stages = {}
    for key, section in config["stages"].items():
        section = dict(section)
        if "optim" in section:
            defaults = _defaults(optim.make, leave_out=("steps_per_update",))
            section["optim"] = {**defaults, **section["optim"]}
        if "method" in section:
            function = methods.make_function(section["method"]["name"])
            section["method"] = {**_defaults(function), **section["method"]}
        if section.get("partition"):
            free = {"filter_data": config_dict.placeholder(bool)}
            section = {**free, **section}
        stages[key] = section
    if "partition" in config:
        # A placeholder is a reference: each config has its own.
        free = {**PARTITION, "only": config_dict.placeholder(int)}
        config = {**config, "partition": {**free, **config["partition"]}}
    return {
        "cpu_devices": 1,  # a CPU taken for so many devices, see `command.split_cpu`
        **config,
        "model": model,
        "stages": stages,
        "data": {**DATA, **config["data"]},
        "train": {**TRAIN, **config["train"]},
        "evaluate": {**EVALUATE, **config["evaluate"]},
    }


def _defaults(function, leave_out=()) -> dict[str, Any]:
    """keyword -> default of a function, None as a placeholder of its type."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        if default is parameter.empty or name in ("parent", "name", *leave_out):
            continue
        if default is None:
            (kind,) = (t for t in get_args(parameter.annotation) if t is not type(None))
            default = config_dict.placeholder(kind)
        found[name] = default
    return found


def expand(config: Mapping[str, Any]) -> list[Stage]:
    """The stages of a plain config, in order, rounds written out.

    A stage with `rounds` becomes one stage per halving, each starting from the one
    before. A stage called "teacher" is left out when `init.teacher` names a path.

    Raises:
        ConfigError: If a stage is missing, or a section is not understood.
    """
    shared = dict(config.get("init", {}))
    stages: list[Stage] = []
    for name in config["order"]:
        if name not in config["stages"]:
            have = ", ".join(config["stages"])
            raise ConfigError(f"order names stage {name!r}; stages has: {have}")
        section = dict(config["stages"][name])
        kind = section.pop("kind", "train")
        if kind not in KINDS:
            raise ConfigError(f"stages.{name}.kind={kind!r}; choose one of {KINDS}")
        imported = shared.get("teacher", "teacher") != "teacher"
        if name == "teacher" and imported:
            continue
        init = {**shared, **section.pop("init", {})}
        if imported:  # then no stage has this name
            init = {
                r: shared["teacher"] if s == "teacher" else s for r, s in init.items()
            }
        if name == "teacher":
            init = {}
        rounds = section.pop("rounds", None)
        if rounds:
            made = _rounds(name, section, init, **rounds)
            if section.get("partition"):
                _check_ranges(made, config.get("partition", {}))
            stages += made
        else:
            stages.append(Stage(name, kind, section, init))
    return stages


def _check_ranges(rounds: list[Stage], partition: Mapping[str, Any]) -> None:
    """Refuses rounds in which a student's step would leave its range of the time.

    Raises:
        ConfigError: Names the first such round.
    """
    num, spacing = partition.get("num_ranges", 1), partition.get("spacing", "even")
    if num > 1 and spacing != "even":
        raise ConfigError(
            f"partition.spacing={spacing!r}: students that halve the steps of their own"
            " ranges have as many of them each; take spacing='even'"
        )
    for stage in rounds:
        if (steps := stage.config["settings"]["num_steps"]) % num:
            raise ConfigError(
                f"partition.num_ranges={num}: does not divide the {steps} steps of the"
                f" round {stage.name}, and each student halves those of its own range;"
                " take a power of two that is at most the last round's steps, or end"
                " with more (rounds.end_steps)"
            )


def _rounds(name, section, init, *, start_steps, end_steps, last_train_steps=None):
    """Halvings start_steps/2, ..., end_steps of progressive distillation.

    Args:
        start_steps: Of the teacher.
        end_steps: Of the last student.
        last_train_steps: Train steps of the rounds that make 2- and 1-step students.
    """
    if start_steps < 2 * end_steps or start_steps & (start_steps - 1):
        raise ConfigError(
            f"start_steps={start_steps}, end_steps={end_steps}: start_steps must be a"
            " power of two and at least twice end_steps"
        )
    stages, num_steps = [], start_steps // 2
    while num_steps >= end_steps:
        train = dict(section["train"])
        if num_steps <= 2 and last_train_steps:
            train["num_steps"] = last_train_steps
        config = {
            **section,
            "train": train,
            "settings": {**section.get("settings", {}), "num_steps": num_steps},
            "sampler": {**section["sampler"], "num_steps": num_steps},
        }
        stages.append(Stage(f"{name}_{num_steps}", "train", config, init))
        init = {**init, "teacher": f"{name}_{num_steps}"}
        num_steps //= 2
    return stages


def train_options(config: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """The section `train` of a stage over that of the whole config over `TRAIN`.

    Raises:
        ConfigError: If there is no such result.
    """
    train = {**TRAIN, **config.get("train", {}), **stage.config.get("train", {})}
    for key in ("num_steps", "batch_size"):
        if stage.kind == "train" and train[key] < 1:
            raise ConfigError(
                f"stages.{stage.name}.train.{key}={train[key]}: at least 1"
            )
    if train["result"] == "best" and stage.config.get("partition"):
        raise ConfigError(
            f"stages.{stage.name}.train.result='best': is for one student; choose"
            " params or ema"
        )
    if train["result"] not in RESULTS:
        raise ConfigError(
            f"stages.{stage.name}.train.result={train['result']!r}; choose one of"
            f" {', '.join(RESULTS)}"
        )
    return train


def load_images(config: Mapping[str, Any]):
    """The data set of the config, checked against the model's image shape."""
    data = dict(config["data"])
    for key in ("flip", "augment_prob"):
        data.pop(key, None)
    found = images.load(**data)
    shape = tuple(config["model"]["image_shape"])
    if found.shape != shape:
        raise ConfigError(
            f"data {found.name!r} has images of {found.shape}, model.image_shape is"
            f" {shape}; set data.size or data.channels, or the model's shape"
        )
    num_classes = config["model"].get("num_classes", 0)
    if num_classes and found.num_classes != num_classes:
        raise ConfigError(
            f"data {found.name!r} has {found.num_classes} classes, model.num_classes is"
            f" {num_classes}; make them equal, or set model.num_classes=0"
        )
    return found


def check_fits(config: Mapping[str, Any], role: str, spec: Mapping[str, Any]) -> None:
    """Refuses a model of other images or classes than the config's.

    Raises:
        ConfigError: Names both values.
    """
    for key in ("image_shape", "num_classes"):
        want, found = config["model"][key], spec[key]
        if list(np.atleast_1d(want)) != list(np.atleast_1d(found)):
            raise ConfigError(
                f"init.{role} is a model with {key}={found}, the config has"
                f" model.{key}={want}; make them equal, or take another model"
            )


_PROGRAMS: dict[str, tuple] = {}


def program(
    stage: Stage,
    train,
    nets,
    process,
    specs,
    *,
    config,
    mesh,
    num_students: int | None = None,
    own: tuple[str, ...] = (),
) -> tuple[Any, Mapping[str, Any], Programs]:
    """(method, optim, programs) of a training stage.

    Stages that differ only in their settings and lengths, such as the rounds of
    progressive distillation, get the same object, and so one compiled program.

    Args:
        stage: Its method and optimizer.
        train: Its merged options, see `train_options`.
        nets: Role -> Net.
        process: The forward process.
        specs: What of the networks the program depends on.
        config: The whole config.
        mesh: The devices.
        num_students: Of a stage with a partition, in this run.
        own: Its frozen roles that are a network for each student.
    """
    batch_size = train["batch_size"]
    flips = {k: config["data"].get(k) for k in ("flip", "augment_prob")}
    paired = "z" in _method(stage, nets, process).batch_keys
    feed = {} if paired else {k: v for k, v in flips.items() if v}
    key = json.dumps(
        [
            stage.config["method"],
            specs,
            stage.config["optim"],
            stage.config.get("roles", {}),
            batch_size,
            train["num_microbatches"],
            feed,
            [str(d) for d in mesh.devices.flat],
            list(mesh.devices.shape),
            num_students,
            own,
        ],
        sort_keys=True,
    )
    if key not in _PROGRAMS:
        method, optimizers = make_method(stage, nets, process, batch_size)
        programs = Programs(
            method,
            optimizers,
            mesh,
            batch_size=batch_size,
            inputs=inputs.make(**feed),
            num_microbatches=train["num_microbatches"],
            num_students=num_students,
            own=own,
        )
        _PROGRAMS[key] = (method, optimizers, programs)
    return _PROGRAMS[key]


def make_method(stage: Stage, nets, process, batch_size: int) -> tuple[Any, dict]:
    """(method, role -> Optim) of a training stage; for the arguments see `program`."""
    method = _method(stage, nets, process)
    optimizers = {
        role: optim.make(
            **_optim(stage, role),
            batch_size=batch_size,
            steps_per_update=steps_per_update(method.phases, role),
        )
        for role in method.nets
    }
    return method, optimizers


def keeps_average(stage: Stage, role: str) -> bool:
    """Whether a role of a training stage has a moving average."""
    kinds = ("ema_decay", "ema_half_life")
    return any(_optim(stage, role).get(kind) is not None for kind in kinds)


def _optim(stage: Stage, role: str) -> dict[str, Any]:
    """The optimizer of a role: the stage's, with the changes of the section `roles`.

    The stage's moving average is that of the student. Of others nothing reads it, so
    that they keep one only where `roles` asks for it.
    """
    shared = dict(stage.config["optim"])
    if role != "student":
        shared |= dict.fromkeys(("ema_decay", "ema_half_life"))
    return {**shared, **stage.config.get("roles", {}).get(role, {})}


def _method(stage, nets, process):
    # A config that went through JSON has lists where functions take tuples.
    keywords: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in stage.config["method"].items()
    }
    name = keywords.pop("name")
    method = methods.make(name, nets=nets, process=process, **keywords)
    wanted = method.sampler
    for key, value in (stage.config.get("sampler") or {}).items():
        if wanted and value != wanted.get(key):
            raise ConfigError(
                f"stages.{stage.name}.sampler.{key}={value!r}: the method {name!r}"
                f" trains the student for {key}={wanted.get(key)!r}; leave out the"
                " section sampler"
            )
    return method
