"""A config with all its defaults, locked: what people see and change.

The only module below the commands that knows ml_collections.
"""

import inspect
import json
from collections.abc import Callable
from typing import Any

import ml_collections
from ml_collections import config_dict

from kdiff_jax import arguments, methods, networks
from kdiff_jax.build.sections import (
    GIVEN_BY_BUILD,
    Data,
    Evaluate,
    Partition,
    Section,
    Train,
)
from kdiff_jax.build.stage_sections import AutoencoderStage, LatentsStage
from kdiff_jax.encoders import trained as autoencoders
from kdiff_jax.train import optim


def plain(config) -> dict[str, Any]:
    """A ConfigDict as plain, JSON-able values."""
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    config = json.loads(json.dumps(config))
    stages = config.get("stages")  # which may be anything: it is not checked yet
    for section in stages.values() if isinstance(stages, dict) else ():
        if isinstance(section, dict) and section.get("sampler") == {}:
            del section["sampler"]  # one that changes nothing
    return config


def complete(config: Section) -> dict[str, Any]:
    """A config with every default in it, so that all can be seen and changed.

    Defaults come from the functions that the sections are for. A value that is None by
    default becomes a placeholder of its type.
    """
    model = dict(config["model"])
    fields = defaults(
        networks.make_function(model["network"]["name"]),
        leave_out=(*networks.FLAX, *GIVEN_BY_BUILD),
    )
    model["network"] = {**fields, **model["network"]}
    unconditioned = {"cond_dim": 0, "cond_length": 0, "augment_dim": 0}
    model = {**unconditioned, "space": "pixels", **model}
    stages = {}
    model["sampler"] = _open(model["sampler"])
    for key, section in config["stages"].items():
        section = {"precision": config_dict.placeholder(str), **section}
        if section.get("kind", "train") in ("train", "pairs"):
            section["sampler"] = _open(section.get("sampler") or {})
        if "optim" in section:
            own = defaults(optim.make, leave_out=("averages", "batch_size", "name"))
            section["optim"] = {**own, **section["optim"]}
        if "method" in section:
            function = methods.make_function(section["method"]["name"])
            section["method"] = {**defaults(function), **section["method"]}
        if network := section.get("model", {}).get("network"):
            name = network.get("name", model["network"]["name"])
            section["model"] = {**section["model"], "network": _typed(name, network)}
        if section.get("kind") == "autoencoder":
            function = autoencoders.make_function(section["network"]["name"])
            fields = defaults(function, leave_out=autoencoders.GIVEN)
            own = defaults(AutoencoderStage, leave_out=("precision",))
            section["network"] = {**fields, **section["network"]}
            section = {**own, **section}
        if section.get("kind") == "latents":
            own = defaults(LatentsStage, leave_out=("precision",))
            section = {**own, **section}
        if section.get("partition"):
            free = {"filter_data": config_dict.placeholder(bool)}
            section = {**free, **section}
        stages[key] = section
    if "partition" in config:
        # A placeholder is a reference: each config has its own.
        config = {**config, "partition": {**defaults(Partition), **config["partition"]}}
    return {
        "cpu_devices": 1,
        "precision": config_dict.placeholder(str),
        **config,
        "model": model,
        "stages": stages,
        "data": {**defaults(Data), **config["data"]},
        "train": {**defaults(Train), **config["train"]},
        "evaluate": {**defaults(Evaluate), **config["evaluate"]},
    }


def _typed(network: str, fields: Section) -> dict[str, Any]:
    """Fields of a network; what is None as a placeholder of the field's type."""
    known = inspect.signature(networks.make_function(network)).parameters
    return {
        key: config_dict.placeholder(arguments.plain_type(known[key].annotation))
        if value is None and key in known
        else value
        for key, value in fields.items()
    }


def _open(sampler: Section) -> dict[str, Any]:
    """The keywords of a sampler as fields of any type: see `lock`."""
    return {
        key: config_dict.FieldReference(value, field_type=object)
        for key, value in sampler.items()
    }


def lock(config: ml_collections.ConfigDict) -> None:
    """Locks a config, so that misspelt options are refused; all but samplers.

    Which keywords a sampler has depends on its name, which may change too: what is not
    one of them is refused by `values.check`.
    """
    config.lock()
    whole: Any = config
    for section in (whole.model, *whole.stages.values()):
        if "sampler" in section:
            section.sampler.unlock()


def defaults(function: Callable[..., Any], leave_out=()) -> dict[str, Any]:
    """keyword -> default of a function, None as a placeholder of its type."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        if default is parameter.empty or name in leave_out:
            continue
        if default is None:
            kind = arguments.plain_type(parameter.annotation)
            default = config_dict.placeholder(kind)
        found[name] = default
    return found
