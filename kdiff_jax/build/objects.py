"""A stage -> its data set, method, optimizers and compiled programs."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdiff_jax import methods
from kdiff_jax.build.stages import Stage
from kdiff_jax.data import images
from kdiff_jax.errors import ConfigError
from kdiff_jax.train import inputs, optim
from kdiff_jax.train.loop import Programs


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
        own: Frozen roles that are a network for each student.
    """
    batch_size = train["batch_size"]
    flips = {k: config["data"].get(k) for k in ("flip", "augment_prob")}
    paired = "z" in _method(stage, nets, process).batch_keys
    feed = {} if paired else {k: v for k, v in flips.items() if v}
    key = json.dumps(
        [
            stage.config["method"],
            specs,
            {role: net.precision for role, net in nets.items()},
            stage.config["optim"],
            stage.config.get("roles", {}),
            batch_size,
            train["num_microbatches"],
            feed,
            [str(d) for d in mesh.devices.flat],
            list(mesh.devices.shape),
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
        )
        for role in method.nets
    }
    for name in method.averages:
        if name not in optimizers["student"].emas:
            raise ConfigError(
                f"stages.{stage.name}.optim.averages: the method"
                f" {stage.config['method']['name']!r} reads the moving average"
                f" {name!r} of the student, and there is none; add averages="
                f"dict({name}=dict(decay=0.95))"
            )
    return method, optimizers


def averages(stage: Stage, role: str) -> tuple[str, ...]:
    """The names of the moving averages that a role of a training stage keeps."""
    return tuple(optim.make(**_optim(stage, role), batch_size=1).emas)


def _optim(stage: Stage, role: str) -> dict[str, Any]:
    """The optimizer of a role: the stage's, with the changes of the section `roles`.

    The stage's moving averages are those of the student. Of others nothing reads them,
    so that they keep some only where `roles` asks for it.
    """
    shared = dict(stage.config["optim"])
    if role != "student":
        shared |= dict.fromkeys(("ema_decay", "ema_half_life", "ema_power"))
        shared["averages"] = {}
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
