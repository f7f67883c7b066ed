"""ConfigDict -> objects: the only module that knows ml_collections.

A config has shared sections (`model`, `data`, `init`, `train`, `evaluate`) and
`stages`, run in the order of `config.order`. A section is the keywords of one function.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from kdiff_jax import methods
from kdiff_jax.data import images
from kdiff_jax.errors import ConfigError
from kdiff_jax.train import inputs, optim
from kdiff_jax.train.loop import Programs

KINDS = ("train", "pairs", "evaluate")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a recipe, with everything that it needs to know as plain values.

    Attributes:
        name: Of its folder.
        kind: "train", "pairs" or "evaluate".
        config: Its section of the config.
        init: role -> stage name or path that the role's parameters come from.
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
        if name == "teacher":
            init = {}
        rounds = section.pop("rounds", None)
        if rounds:
            stages += _rounds(name, section, init, **rounds)
        else:
            stages.append(Stage(name, kind, section, init))
    return stages


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
            f" {shape}; set data.size, or the model's shape"
        )
    num_classes = config["model"].get("num_classes", 0)
    if num_classes and found.num_classes not in (0, num_classes):
        raise ConfigError(
            f"data {found.name!r} has {found.num_classes} classes, model.num_classes is"
            f" {num_classes}; make them equal, or set model.num_classes=0"
        )
    return found


_PROGRAMS: dict[str, tuple] = {}


def program(
    stage: Stage, nets, process, specs, *, config, mesh
) -> tuple[Any, Mapping[str, Any], Programs]:
    """(method, optim, programs) of a training stage.

    Stages that differ only in their settings and lengths, such as the rounds of
    progressive distillation, get the same object, and so one compiled program.
    """
    train = stage.config["train"]
    batch_size = train["batch_size"]
    flips = {k: config["data"].get(k) for k in ("flip", "augment_prob")}
    paired = "z" in _method(stage, nets, process).batch_keys
    feed = {} if paired else {k: v for k, v in flips.items() if v}
    key = json.dumps(
        [
            stage.config["method"],
            specs,
            stage.config["optim"],
            batch_size,
            train.get("num_microbatches", 1),
            feed,
            [str(d) for d in mesh.devices.flat],
            list(mesh.devices.shape),
        ],
        sort_keys=True,
    )
    if key not in _PROGRAMS:
        method = _method(stage, nets, process)
        optimizers = {
            role: optim.make(**stage.config["optim"], batch_size=batch_size)
            for role in method.nets
        }
        programs = Programs(
            method,
            optimizers,
            mesh,
            batch_size=batch_size,
            inputs=inputs.make(**feed),
            num_microbatches=train.get("num_microbatches", 1),
        )
        _PROGRAMS[key] = (method, optimizers, programs)
    return _PROGRAMS[key]


def _method(stage, nets, process):
    keywords = dict(stage.config["method"])
    return methods.make(keywords.pop("name"), nets=nets, process=process, **keywords)
