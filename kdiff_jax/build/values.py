"""Every value of a config, against the signature of what it is for.

So a number out of range, a misspelt keyword or a value of another type ends a run
before its first stage, and also a dry one.
"""

from collections.abc import Callable, Mapping
from typing import Any

from kdiff_jax import arguments, domain, methods
from kdiff_jax.build import sections, stage_sections
from kdiff_jax.build.sections import GIVEN_BY_BUILD as GIVEN
from kdiff_jax.build.stages import halvings
from kdiff_jax.data import class_prompts, images
from kdiff_jax.encoders import trained as autoencoders
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop import spec_check as checks
from kdiff_jax.train import optim

STAGES = {
    "train": stage_sections.TrainStage,
    "pairs": stage_sections.PairsStage,
    "evaluate": stage_sections.EvaluateStage,
    "autoencoder": stage_sections.AutoencoderStage,
    "latents": stage_sections.LatentsStage,
}


def check(config: Mapping[str, Any]) -> None:
    """Refuses a plain config with a value that its section does not allow.

    Raises:
        ConfigError: Names the value as the command line does, and the rule.
    """
    path = "--config."
    _check(sections.Config, config, "a config", path)
    _model(config["model"], f"{path}model.", config["model"])
    _data(config["data"], f"{path}data.")
    space, prob = config["model"].get("space", "pixels"), "augment_prob"
    if config["data"].get(prob) and space != "pixels":
        raise ConfigError(
            f"{path}data.{prob}={config['data'][prob]}: moves pixels, and images live"
            f" in model.space={space!r}; set 0"
        )
    shared = dict(
        train=sections.Train, evaluate=sections.Evaluate, partition=sections.Partition
    )
    for key, kind in shared.items():
        section = config.get(key) or {}
        what = f"the section {key}"
        _check(kind, section, what, f"{path}{key}.", partial=True)
    _init(config.get("init", {}), f"{path}init.")
    for name in config["order"]:
        if name not in config["stages"]:
            have = ", ".join(config["stages"])
            raise ConfigError(f"order names stage {name!r}; stages has: {have}")
        _stage(config, name, f"{path}stages.{name}.")


def _stage(config, name, path) -> None:
    section = config["stages"][name]
    if not isinstance(section, Mapping):
        raise ConfigError(f"{path[:-1]}={section!r}: must be a section of keywords")
    kind = section.get("kind", "train")
    if not isinstance(kind, str) or kind not in STAGES:
        raise ConfigError(f"{path}kind={kind!r}; choose one of {', '.join(STAGES)}")
    _check(STAGES[kind], section, f"a stage of kind {kind!r}", path)
    _init(section.get("init", {}), f"{path}init.")
    if kind == "train":
        _training(config, name, path)
    elif kind == "autoencoder":
        _learning(config, name, path)
        prefix, hidden = f"{path}network.", autoencoders.GIVEN
        network = section["network"]
        arguments.check_named(autoencoders, network, prefix=prefix, hidden=hidden)
    elif kind == "pairs" and section.get("sampler"):
        _sampler(config, name, {}, path)


def _learning(config, stage, path) -> None:
    """What all stages that train have: method, optimizers and lengths."""
    section = config["stages"][stage]
    given_by_build, prefix = ("nets", "process"), f"{path}method."
    arguments.check_named(
        methods, section["method"], prefix=prefix, hidden=given_by_build
    )
    try:
        kind = section.get("kind", "train")
        methods.check_kind(section["method"]["name"], kind)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error
    _roles(section, path)
    _optim(section["optim"], f"{path}optim.")
    for role, changes in section.get("roles", {}).items():
        if not isinstance(changes, Mapping):
            raise ConfigError(f"{path}roles.{role}={changes!r}: must be a section")
        _optim({**section["optim"], **changes}, f"{path}roles.{role}.")
    what, whole = "the section train", {**config.get("train", {}), **section["train"]}
    for train, partial in ((section["train"], True), (whole, False)):
        _check(sections.Train, train, what, f"{path}train.", partial=partial)


def _training(config, stage, path) -> None:
    _learning(config, stage, path)
    section = config["stages"][stage]
    rounds = section.get("rounds")
    if rounds:
        _check(halvings, rounds, "the section rounds", f"{path}rounds.")
    if section.get("sampler"):
        of_round = {"num_steps": 1} if rounds else {}
        _sampler(config, stage, of_round, path)
    elif rounds:
        raise ConfigError(f"{path}sampler: is missing, and rounds need it")
    changes = section.get("model", {})
    _model(changes, f"{path}model.", config["model"], partial=True)
    for key, value in section.get("settings", {}).items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{path}settings.{key}={value!r}: must be 1 or more")


def _sampler(config, stage, changes, path) -> None:
    """The sampler of a stage; one without a name changes that of the teacher."""
    sampler = {**config["stages"][stage]["sampler"], **changes}
    seen = {stage}
    while "name" not in sampler:
        section = config["stages"].get(stage) or {}
        source = {**config.get("init", {}), **section.get("init", {})}.get("teacher")
        stage = source if source in config["stages"] else _of_round(source)
        above = config["stages"].get(stage)
        if stage in seen or not isinstance(above, Mapping):
            above = {"sampler": {"name": None, **config["model"]["sampler"]}}
        seen.add(stage)
        if isinstance(base := above.get("sampler"), Mapping):
            sampler = {**base, **sampler}
    checks.check_section("sampler", sampler, path)


def _of_round(stage: str | None) -> str:
    """The section that a stage of rounds is written out from."""
    return (stage or "").rpartition("_")[0]


def _roles(section, path) -> None:
    """Roles are those of the method, with these options or others."""
    name = section["method"]["name"]
    known = methods.roles(name)
    for key, roles in (("roles", known), ("init", (*known, "teacher"))):
        for role in section.get(key, {}):
            if role not in roles:
                raise ConfigError(
                    f"{path}{key}.{role}: the method {name!r} has no such role; name"
                    f" one of {', '.join(roles)}"
                )


def _init(section, path) -> None:
    for role, source in section.items():
        if not isinstance(source, str):
            raise ConfigError(
                f"{path}{role}={source!r}: must be text; name a stage or a path"
            )


def _optim(section, path) -> None:
    _check(
        optim.make,
        section,
        "an optimizer",
        path,
        hidden=("batch_size",),
    )


def _model(section, path, whole, *, partial: bool = False) -> None:
    """The model of a config, or what a stage changes of it."""
    _check(sections.Model, section, "the section model", path, partial=partial)
    try:
        domain.check_space(section.get("space", "pixels"))
    except ConfigError as error:
        raise ConfigError(f"{path}{error}") from error
    levels, num_classes = section.get("guidance_range"), whole.get("num_classes", 0)
    checks.check_levels(levels, num_classes, path)
    if section.get("cond_dim") and not whole.get("num_classes"):
        raise ConfigError(
            f"{path}cond_dim={section['cond_dim']}: {path}num_classes is the number of"
            " vectors, and 0; set it to the rows of data.conditions"
        )
    network = section.get("network", {})
    name = network.get("name", whole["network"].get("name"))
    checks.check_section(
        "network", {"name": name, **network}, path, partial=partial, given=GIVEN
    )
    for key in ("precondition", "process", "sampler", "autoencoder", "text"):
        if section.get(key) is not None:
            checks.check_section(key, section[key], path)
    if not partial:
        checks.check_autoencoder(section, path)
        checks.check_text(section, path)


def _data(section, path) -> None:
    own = sections.Data._fields
    shared = {k: v for k, v in section.items() if k in own}
    _check(sections.Data, shared, "the section data", path)
    texts = section.get("class_names", ()), section.get("templates", ())
    class_prompts.check(*texts, path)
    source, rest = images.source(section["name"])
    more = {k: v for k, v in section.items() if k not in own}
    hidden = ("path", "split", "size", *rest)
    _check(source, more, f"data {section['name']!r}", path, hidden=hidden)


def _check(function: Callable, given, what, path, *, hidden=(), partial=False) -> None:
    arguments.check(
        function, given, what=what, prefix=path, hidden=hidden, partial=partial
    )
