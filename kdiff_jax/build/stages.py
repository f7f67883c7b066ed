"""A plain config -> its stages, in order, each with all that it needs to know."""

from collections.abc import Mapping
from typing import Any

from kdiff_jax.arguments import Count
from kdiff_jax.build import sections, stage_sections
from kdiff_jax.build.resolved import (
    MADE,
    AutoencoderStage,
    EvaluateStage,
    Init,
    LatentsStage,
    PairsStage,
    Recipe,
    Stage,
    TrainStage,
)
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop import Spec
from kdiff_jax.named import frozen, named

PATHS = ("conditions", "autoencoder", "latents", "text_encoder")  # of `data`


def resolve(config: Mapping[str, Any]) -> Recipe:
    """A plain config that is sound, as what it says.

    Raises:
        ConfigError: If its stages do not fit together.
    """
    data = dict(config["data"])
    augmented = {k: v for k in ("flip", "augment_prob") if (v := data.pop(k, None))}
    read: dict[str, Any] = {key: data.pop(key, "") for key in PATHS}
    texts = {k: tuple(data.pop(k, ())) for k in ("class_names", "templates")}
    partition, stages = config.get("partition"), tuple(expand(config))
    kinds = {stage.name: stage.kind for stage in stages}
    teacher = config.get("init", {}).get("teacher", "teacher")
    if read["text_encoder"] == "teacher" not in kinds:  # one that is brought has it
        read["text_encoder"] = teacher
    paths: list[Any] = [*read.values()]
    made = {
        key: read[key] for key, kind in MADE.items() if kinds.get(read[key]) == kind
    }
    return Recipe(
        config["name"],
        stages,
        named(data),
        frozen(augmented),
        Spec.of({"num_classes": 0, **config["model"]}, "--config.model."),
        *paths,
        **texts,
        made=frozen(made),
        partition=sections.Partition(**frozen(partition)) if partition else None,
        teacher=teacher,
        teacher_hint=config.get("teacher_hint", ""),
        hints=frozen(config.get("hints", {})),
        seed=config.get("seed", 0),
        evaluate=sections.Evaluate(**frozen(config.get("evaluate", {}))),
        sections=tuple(config["stages"]),
        config=config,
    )


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
        if kind == "pairs":
            stages.append(_pairs(config, name, section, init))
        elif kind == "evaluate":
            stages.append(_evaluate(config, name, section, init))
        elif kind == "autoencoder":
            stages.append(_autoencoder(config, name, section))
        elif kind == "latents":
            stages.append(_latents(config, name, section))
        elif rounds := section.pop("rounds", None):
            stages += _rounds(config, name, section, init, halvings(**rounds))
        else:
            stages.append(_train(config, name, section, init))
    return stages


def _train(config, name: str, section, init) -> TrainStage:
    return TrainStage(
        name=name,
        init=Init.of(init),
        section=section,
        method=named(section["method"]),
        optim=frozen(section["optim"]),
        roles=frozen(section.get("roles") or {}),
        train=_lengths(config, section),
        model=frozen(section.get("model") or {}),
        sampler=frozen(section.get("sampler") or {}),
        pairs=section.get("pairs") or "",
        settings=frozen(section.get("settings") or {}),
        partition=bool(section.get("partition")),
        filter_data=section.get("filter_data"),
        precision=_precision(config, section),
        channels=section.get("channels", ""),
        blocks=section.get("blocks", ""),
        trains_text=config["data"].get("text_encoder") == name,
        own_train=tuple(section.get("train", ())),
    )


def _autoencoder(config, name: str, section) -> AutoencoderStage:
    defaults = stage_sections.AutoencoderStage._field_defaults
    counts = {
        key: section.get(key, defaults[key]) for key in ("num_held_out", "num_measured")
    }
    return AutoencoderStage(
        name=name,
        section=section,
        network=named(section["network"]),
        method=named(section["method"]),
        optim=frozen(section["optim"]),
        roles=frozen(section.get("roles") or {}),
        train=_lengths(config, section),
        **counts,
        precision=_of_encoder(config, section),
        own_train=tuple(section.get("train", ())),
    )


def _latents(config, name: str, section) -> LatentsStage:
    defaults = stage_sections.LatentsStage._field_defaults
    sizes = {
        key: section.get(key, defaults[key]) for key in ("shard_size", "batch_size")
    }
    return LatentsStage(
        name=name,
        section=section,
        **sizes,
        precision=_of_encoder(config, section),
        hang_minutes=_hang_minutes(config),
    )


def _of_encoder(config, section) -> str:
    """The type that the autoencoder of a stage computes in."""
    return section.get("precision") or config.get("precision") or "float32"


def _lengths(config, section) -> sections.Train:
    """The section `train` of a stage, over that of the config."""
    shared = {**config.get("train", {}), **section.get("train", {})}
    return sections.Train(**frozen(shared))


def _pairs(config, name: str, section, init) -> PairsStage:
    counts = {key: section[key] for key in ("num_pairs", "num_held_out")}
    sizes = {key: section[key] for key in ("shard_size", "batch_size")}
    return PairsStage(
        name=name,
        init=Init.of(init),
        section=section,
        **counts,
        **sizes,
        sampler=frozen(section.get("sampler") or {}),
        precision=_precision(config, section),
        hang_minutes=_hang_minutes(config),
    )


def _evaluate(config, name: str, section, init) -> EvaluateStage:
    own = {k: v for k, v in section.items() if k in sections.Evaluate._fields}
    return EvaluateStage(
        name=name,
        init=Init.of(init),
        section=section,
        models=tuple(section["models"]),
        options=sections.Evaluate(**frozen({**config.get("evaluate", {}), **own})),
        place=f"stages.{name}" if "batch_size" in section else "evaluate",
        precision=_precision(config, section),
        hang_minutes=_hang_minutes(config),
    )


def _hang_minutes(config) -> float:
    own = {k: v for k, v in config.get("train", {}).items() if k == "hang_minutes"}
    return sections.Train(num_steps=1, batch_size=1, **own).hang_minutes


def _precision(config, section) -> str:
    """The type that the networks of a stage compute in; see `sections.Config`."""
    models = (section.get("model") or {}, config["model"])
    said = [place.get("precision") for place in (section, config)]
    said += [model.get("network", {}).get("dtype") for model in models]
    return next((value for value in said if value), "float32")


def spec_of(stage: TrainStage | PairsStage, base: Spec) -> Spec:
    """Spec of what a stage makes or asks: `base` with the stage's model and sampler.

    A student answers without a label only where it was trained to, `null_prob`: only
    then it inherits the guidance of its teacher's sampler. One that reads its guidance
    has one of its own range to be sampled with: the section's, the teacher's, or the
    middle.
    """
    place = f"--config.stages.{stage.name}."
    if stage.kind != "train":
        return base.changed({"sampler": stage.sampler}, place)
    null_prob = stage.method.keywords.get("null_prob") or None
    if stage.init.teacher is not None and not null_prob:
        inherited, base = base.guidance, base.unguided()
    else:
        inherited = base.guidance
    sampler = stage.sampler
    if levels := stage.model.get("guidance_range", base.guidance_range):
        low, high = levels
        fits = inherited != 1 and low <= inherited <= high
        base = base.unguided()
        sampler = {"guidance": inherited if fits else (low + high) / 2, **sampler}
    changes = {**stage.model, "sampler": sampler}
    return base.changed(changes, place).replace(null_prob=null_prob)


def _check_ranges(rounds: list[TrainStage], partition: Mapping[str, Any]) -> None:
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
        if (steps := stage.settings["num_steps"]) % num:
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


def _rounds(config, name: str, section, init, rounds) -> list[TrainStage]:
    """A stage for each round; the first one's teacher is the stage's."""
    stages = []
    for i, (num_steps, train_steps) in enumerate(rounds):
        method = dict(section["method"])
        if i and method.get("guidance", 1) != 1:
            method["guidance"] = 1.0  # the teacher is a student of the guided one
        if i and method.get("guidance_interval"):
            method["guidance_interval"] = None
        train = dict(section["train"])
        if train_steps:
            train["num_steps"] = train_steps
        own = {
            **section,
            "method": method,
            "train": train,
            "settings": {**section.get("settings", {}), "num_steps": num_steps},
            "sampler": {**section["sampler"], "num_steps": num_steps},
        }
        stages.append(_train(config, f"{name}_{num_steps}", own, init))
        init = {**init, "teacher": f"{name}_{num_steps}"}
    if section.get("partition"):
        _check_ranges(stages, config.get("partition", {}))
    return stages
