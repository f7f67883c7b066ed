"""A plain config -> its stages, in order, each with all that it needs to know."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kdiff_jax.arguments import Count
from kdiff_jax.build import sections
from kdiff_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a recipe, with everything that it needs to know as plain values.

    Attributes:
        name: Name of the stage and of its folder.
        kind: "train", "pairs" or "evaluate".
        config: Its section of the config.
        init: role -> stage name or path that the role's parameters come from, or
            "stage/role": that role of the stage's last checkpoint, weights alone.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    init: Mapping[str, str]


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
        section = dict(config["stages"][name])
        kind = section.pop("kind", "train")
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
            made = _rounds(name, section, init, halvings(**rounds))
            if section.get("partition"):
                _check_ranges(made, config.get("partition", {}))
            stages += made
        else:
            stages.append(Stage(name, kind, section, init))
    return stages


def spec_of(stage: Stage, base: Mapping[str, Any]) -> dict[str, Any]:
    """Spec of what a stage makes or asks: `base` with the stage's model and sampler.

    A student answers without a label only where it was trained to, `null_prob`: only
    then it inherits the guidance of its teacher's sampler.
    """
    sampler = stage.config.get("sampler") or {}
    found = changed(base, {**stage.config.get("model", {}), "sampler": sampler})
    if stage.kind != "train":
        return found
    found.pop("null_prob", None)
    if null_prob := stage.config["method"].get("null_prob"):
        found["null_prob"] = null_prob
    elif "teacher" in stage.init:
        own = found["sampler"].items()
        found["sampler"] = {
            k: v for k, v in own if k in sampler or not k.startswith("guidance")
        }
    return found


def changed(spec, changes) -> dict[str, Any]:
    """A spec with other values; a section that names nothing changes fields of its own.

    {"network": {"dropout": 0.0}} keeps the network and takes its dropout away.
    """
    spec = dict(spec)
    for key, value in changes.items():
        fields = isinstance(value, Mapping) and "name" not in value
        spec[key] = {**spec[key], **value} if fields else value
    return spec


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


def halvings(
    *, start_steps: Count, end_steps: Count, last_train_steps: Count | None = None
) -> list[tuple[int, int | None]]:
    """(sampling steps, train steps) of each round start_steps/2, ..., end_steps.

    Args:
        start_steps: Sampling steps of the teacher, a power of two.
        end_steps: Sampling steps of the last student.
        last_train_steps: Train steps of the rounds that make 2- and 1-step students;
            None for as many as the others have. Those are None in the result.

    Raises:
        ConfigError: If the steps cannot be halved.
    """
    if start_steps < 2 * end_steps or start_steps & (start_steps - 1):
        raise ConfigError(
            f"start_steps={start_steps}, end_steps={end_steps}: start_steps must be a"
            " power of two and at least twice end_steps"
        )
    found, num_steps = [], start_steps // 2
    while num_steps >= end_steps:
        found.append((num_steps, last_train_steps if num_steps <= 2 else None))
        num_steps //= 2
    return found


def _rounds(name, section, init, rounds) -> list[Stage]:
    """A stage for each round; the first one's teacher is the stage's."""
    stages = []
    for i, (num_steps, train_steps) in enumerate(rounds):
        method = dict(section["method"])
        if i and method.get("guidance", 1) != 1:
            method["guidance"] = 1.0  # the teacher is a student of the guided one
        train = dict(section["train"])
        if train_steps:
            train["num_steps"] = train_steps
        config = {
            **section,
            "method": method,
            "train": train,
            "settings": {**section.get("settings", {}), "num_steps": num_steps},
            "sampler": {**section["sampler"], "num_steps": num_steps},
        }
        stages.append(Stage(f"{name}_{num_steps}", "train", config, init))
        init = {**init, "teacher": f"{name}_{num_steps}"}
    return stages


def precision(config: Mapping[str, Any], stage: Stage) -> str:
    """The type that the networks of a stage compute in; see `sections.Config`."""
    networks = [
        section.get("network", {})
        for section in (stage.config.get("model", {}), config["model"])
    ]
    said = [s.get("precision") for s in (stage.config, config)]
    said += [network.get("dtype") for network in networks]
    return next((value for value in said if value), "float32")


def train_options(config: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """The section `train` of a stage over that of the whole config over the defaults.

    Raises:
        ConfigError: If the result is one that this stage cannot have.
    """
    default = sections.defaults(sections.Train)
    train = {**default, **config.get("train", {}), **stage.config.get("train", {})}
    if train["result"] == "best" and stage.config.get("partition"):
        raise ConfigError(
            f"stages.{stage.name}.train.result='best': is for one student; choose"
            " params or ema"
        )
    return train


def evaluate_options(config: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """The section `evaluate` of a stage, as `train_options`."""
    default = sections.defaults(sections.Evaluate)
    return {**default, **config.get("evaluate", {}), **stage.config}
