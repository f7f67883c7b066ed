"""A stage -> its method, optimizers and compiled programs."""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from flax.core import FrozenDict
from jax.sharding import Mesh

from kdiff_jax import arguments, methods
from kdiff_jax.build.resolved import Init, Learning, Recipe, TrainStage
from kdiff_jax.build.sections import Train
from kdiff_jax.diffusion.process import Process
from kdiff_jax.encoders import latents, texts
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop import Spec
from kdiff_jax.method import Method, Net
from kdiff_jax.named import Keywords, frozen
from kdiff_jax.train import inputs, layout, optim
from kdiff_jax.train.loop import Programs

# Fields of a stage, and of its `train`, that no compiled program depends on: names,
# numbers that the programs read, and what the specs of the networks say. A field that
# is not here makes another program.
FREE = {
    **dict(name="", pairs="", filter_data=None, partition=False, channels=""),
    **dict(blocks="", init=Init(), own_train=()),
    **dict.fromkeys(("settings", "sampler", "model"), FrozenDict()),
}
FREE_OF_TRAIN = {
    **dict(num_steps=1, log_every=1, sample_every=1, save_every=1, save_minutes=1.0),
    **dict(validate_every=1, steps_per_dispatch=0, keep=1, result="params"),
    **dict(best_by="held_out_loss", figure_every=0, figure_images=1),
    **dict(figure_metrics=(), figure_average=""),
    **dict(spike_factor=0.0, spike_lines=1, hang_minutes=0.0, tracker=""),
}
# What all models of a recipe have alike.
FITTING = (
    *("image_shape", "num_classes", "cond_dim", "cond_length", "space"),
    *("autoencoder", "text"),
)


def brought(recipe: Recipe, spec: Spec) -> Spec:
    """The spec of a brought model, asked for the recipe's texts, in its latents.

    Of a foreign file it says that any text may be asked for, and names no autoencoder.
    """
    ours = recipe.spec
    if (
        ours.cond_length
        and spec.cond_length == ours.cond_length
        and not spec.num_classes
    ):
        spec = spec.replace(num_classes=ours.num_classes, text=ours.text)
    if ours.autoencoder and spec.space == ours.space and spec.autoencoder is None:
        spec = spec.replace(autoencoder=ours.autoencoder)
    return spec


def check_fits(recipe: Recipe, role: str, spec: Spec) -> None:
    """Refuses a model of other images or classes than the recipe's.

    Raises:
        ConfigError: Names both values.
    """
    for name in FITTING:
        want, found = getattr(recipe.spec, name), getattr(spec, name)
        if want != found and not _alike(name, want, found):
            raise ConfigError(
                f"init.{role} is a model with {name}={found}, the config has"
                f" model.{name}={want}; make them equal, or take another model"
            )


def _alike(name: str, want: Any, found: Any) -> bool:
    """Whether two sections make the same network, one with its defaults written out."""
    make = dict(autoencoder=latents.make, text=texts.make).get(name)
    if make is None or want is None or found is None:
        return False
    return want.call(make) == found.call(make)


def check_shared(recipe: Recipe, stage: TrainStage) -> None:
    """Refuses a student of other images or conditions than its recipe's.

    A student without classes is one of a teacher with labels, which it ignores.

    Raises:
        ConfigError: Names both values.
    """
    for key in FITTING:
        want = getattr(recipe.spec, key)
        found = stage.model.get(key, want)
        ignores = key == "num_classes" and not found and not recipe.conditions.dim
        if found != want and not ignores:
            raise ConfigError(
                f"--config.stages.{stage.name}.model.{key}={found}: the model has"
                f" {key}={want}, as the teacher and the data, which all stages share;"
                f" leave it out, or change model.{key}"
            )


class Networks(NamedTuple):
    """The networks that a stage is given.

    Attributes:
        nets: Role -> Net.
        process: Forward process of the student.
        specs: Specs of the student and, if there is one, of its teacher, as far as they
            define functions.
    """

    nets: Mapping[str, Net]
    process: Process
    specs: tuple[Spec, ...]


class Program(NamedTuple):
    """A method with its optimizers, and the compiled steps of the two."""

    method: Method
    optim: Mapping[str, Any]
    steps: Programs


def program_key(
    recipe: Recipe,
    stage: TrainStage,
    networks: Networks,
    mesh: Mesh,
    own: tuple[str, ...],
) -> Hashable:
    """All that the compiled program of a training stage depends on."""
    free_of_train: dict[str, Any] = FREE_OF_TRAIN
    train: Train = stage.train._replace(**free_of_train)
    free: dict[str, Any] = FREE
    same = dataclasses.replace(stage, **free, train=train)
    precisions = tuple((role, net.precision) for role, net in networks.nets.items())
    return same, _augmented(recipe), networks.specs, precisions, mesh, own


def _augmented(recipe: Recipe) -> Keywords:
    """What programs do to images; a cache of latents has those of flipped ones."""
    gone = ("flip",) if recipe.latents else ()
    return frozen({k: v for k, v in recipe.augmented.items() if k not in gone})


def program(
    held: dict[Hashable, Program],
    recipe: Recipe,
    stage: TrainStage,
    networks: Networks,
    *,
    mesh: Mesh,
    own: tuple[str, ...] = (),
) -> Program:
    """The program of a training stage: one that is held already, or a new one.

    Stages that differ only in their settings and lengths, such as the rounds of
    progressive distillation, share one.

    Args:
        held: Programs of the job; a new one is added.
        recipe: The recipe.
        stage: Its method and optimizer.
        networks: What the stage is given.
        mesh: The devices.
        own: Frozen roles that are a network for each student.
    """
    key = program_key(recipe, stage, networks, mesh, own)
    if key not in held:
        train = stage.train
        method, optimizers = make_method(
            stage, networks.nets, networks.process, train.batch_size
        )
        student = networks.nets["student"]
        of_student: dict[str, Any] = dict(
            space=student.space, conditions=method.conditions
        )
        augmented = {} if "z" in method.batch_keys else _augmented(recipe)
        steps = Programs(
            method,
            optimizers,
            mesh,
            batch_size=train.batch_size,
            inputs=inputs.make(**of_student, **augmented),
            num_microbatches=train.num_microbatches,
            own=own,
            layout=layout.of(train.layout, mesh),
        )
        held[key] = Program(method, optimizers, steps)
    return held[key]


def make_method(
    stage: Learning, nets, process, batch_size: int
) -> tuple[Method, dict[str, Any]]:
    """(method, role -> Optim) of a training stage; for networks see `Networks`."""
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
                f" {stage.method.name!r} reads the moving average"
                f" {name!r} of the student, and there is none; add averages="
                f"dict({name}=dict(decay=0.95))"
            )
    return method, optimizers


def averages(stage: Learning, role: str) -> tuple[str, ...]:
    """The names of the moving averages that a role of a training stage keeps."""
    return tuple(optim.make(**_optim(stage, role), batch_size=1).emas)


def powers(stage: TrainStage, role: str) -> dict[str, float]:
    """Name -> relative width, of the averages of a role that are power functions."""
    given = _optim(stage, role)
    found = {"ema": given.get("ema_power")}
    found |= {name: one.get("power") for name, one in given.get("averages", {}).items()}
    return {name: float(width) for name, width in found.items() if width is not None}


def _optim(stage: Learning, role: str) -> dict[str, Any]:
    """The optimizer of a role: the stage's, with the changes of the section `roles`.

    The stage's moving averages are those of the student. Of others nothing reads them,
    so that they keep some only where `roles` asks for it.
    """
    shared = dict(stage.optim)
    if role not in ("student", texts.ROLE):  # both are what the stage leaves
        shared |= dict.fromkeys(("ema_decay", "ema_half_life", "ema_power"))
        shared["averages"] = {}
    return arguments.as_declared(optim.make, {**shared, **stage.roles.get(role, {})})


def _method(stage: Learning, nets, process) -> Method:
    name, keywords = stage.method
    if levels := nets["student"].guidance_range:
        if not methods.takes_guidance(name):
            raise ConfigError(
                f"stages.{stage.name}.model.guidance_range={levels}: the method"
                f" {name!r} trains for one guidance alone (its file does not say"
                " TAKES_GUIDANCE), and tsm and progressive for a range; leave it out,"
                " or, if it is the teacher's, set it to None, and init.student to"
                " 'random' or to a stage that reads none"
            )
    if stage.trains_text:
        nets = {**nets, texts.ROLE: _text_encoder(stage, nets["student"])}
    given = arguments.as_declared(methods.make_function(name), keywords)
    method = methods.make(name, nets=nets, process=process, **given)
    wanted = method.sampler
    for key, value in stage.sampler.items():
        if wanted and value != wanted.get(key):
            raise ConfigError(
                f"stages.{stage.name}.sampler.{key}={value!r}: the method {name!r}"
                f" trains the student for {key}={wanted.get(key)!r}; leave out the"
                " section sampler"
            )
    return method


def _text_encoder(stage: Learning, student: Net) -> Net:
    """The encoder of the prompts that a student reads, to be trained with it.

    Raises:
        ConfigError: If the model has none, or the method trains none, or there would be
            one for each of several students, or of one of several steps.
    """
    place = f"data.text_encoder={stage.name!r}"
    if not isinstance(reader := student.reader, texts.Tokens):
        raise ConfigError(
            f"{place}: a stage trains the encoder that model.text describes, and there"
            " is none; set it, with cond_dim and cond_length"
        )
    if texts.ROLE not in methods.roles(name := stage.method.name):
        known = [n for n in methods.names() if texts.ROLE in methods.roles(n)]
        raise ConfigError(
            f"{place}: the method {name!r} trains no text encoder; name a stage of"
            f" {', '.join(known)}, or the folder of an encoder"
        )
    if isinstance(stage, TrainStage) and (stage.partition or stage.pairs):
        raise ConfigError(
            f"{place}: several students, or students of pairs, read an encoder that is"
            " there; name a stage of one student on data"
        )
    if stage.train.result == "best":
        raise ConfigError(
            f"stages.{stage.name}.train.result='best': keeps a step of the denoiser"
            " alone, and this stage trains its text encoder; choose params or ema"
        )
    return texts.net(reader)
