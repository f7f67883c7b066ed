"""A stage that trains an autoencoder and leaves a folder vae/, as diffusers has it."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import build, domain, rng
from kdiff_jax.build import AutoencoderStage
from kdiff_jax.build.sections import Train
from kdiff_jax.data import batches as data_batches
from kdiff_jax.data.images import Images
from kdiff_jax.encoders import trained
from kdiff_jax.encoders.autoencoder_kl import AutoencoderKL
from kdiff_jax.errors import ConfigError, DataError, UserError
from kdiff_jax.method import Method, Net, Numbers
from kdiff_jax.partition import ONE
from kdiff_jax.stages import Job, autoencoder_end, results, training_steps
from kdiff_jax.stages.hooks import Log, Saver
from kdiff_jax.stages.reconstructions import Reconstructor, Shown
from kdiff_jax.stages.students import Students
from kdiff_jax.stages.training_start import Fed
from kdiff_jax.train import inputs, layout, loop, parallel
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.state import TrainState, init_state


class Plan(NamedTuple):
    """What a stage trains, before anything is on the devices.

    Attributes:
        module: The autoencoder.
        net: The same as a method's network.
        method: Method that trains it.
        optim: `Optim` of each role.
    """

    module: AutoencoderKL
    net: Net
    method: Method
    optim: Mapping[str, Any]


def run(job: Job, stage: AutoencoderStage) -> None:
    """Trains, or resumes, and leaves `vae/` in the stage's folder.

    Raises:
        Interrupted: If a signal asked to stop; everything is saved.
        NumericsError: If a loss or gradient is not finite, or far above its usual size.
    """
    folder, train = job.folder(stage.name), stage.train
    made, images = plan(job, stage), build.load_images(job.recipe)
    held_out, seen = split(stage, images)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder / "checkpoints", keep=train.keep)
    programs = _programs(job, stage, made)
    fed, state, step = _begin(job, stage, made, seen, programs, checkpoints)
    late = jax.default_backend() != "cpu"
    about: dict[str, Any] = dict(first_step=step, late=late, config=job.recipe.config)
    log = Log(folder, stage.name, train, **about)
    saver = Saver(checkpoints, train.save_minutes, log.watch)
    reconstruct = Reconstructor(made.net, job.mesh)
    result = functools.partial(_result, train)
    shown = Shown(folder, reconstruct, held_out, result, log)
    hooks = [
        loop.Hook(train.sample_every, shown),
        loop.Hook(train.log_every, log),
        loop.Hook(train.save_every, saver),
        loop.Hook(train.log_every, saver.if_late),
    ]
    beside = training_steps.Beside(checkpoints, saver, log, hooks)
    state = training_steps.run(job, stage, programs, fed, state, beside)
    params, seconds = result(state), log.seconds
    found = autoencoder_end.Trained(params, reconstruct, held_out, seen, seconds)
    autoencoder_end.leave(job, stage, made.module, found)


def _result(train: Train, state: TrainState):
    """The parameters that a stage leaves."""
    return results.params_of(state.nets["student"], results.average(train))


def _programs(job: Job, stage: AutoencoderStage, made: Plan) -> loop.Programs:
    """The compiled steps of a stage."""
    train = stage.train
    return loop.Programs(
        *(made.method, made.optim, job.mesh),
        batch_size=train.batch_size,
        inputs=inputs.make(flip=job.recipe.flips),
        num_microbatches=train.num_microbatches,
        layout=layout.of(train.layout, job.mesh),
    )


def plan(job: Job, stage: AutoencoderStage) -> Plan:
    """The networks and the method of a stage; nothing is computed.

    Raises:
        ConfigError: If the fields make no network, or none for these images.
    """
    shape = job.recipe.space.pixel_shape
    module = stage.network.call(
        trained.make, image_shape=shape, precision=stage.precision
    )
    net = trained.net(module, shape)
    nets, size = {"student": net}, stage.train.batch_size
    return Plan(module, net, *build.make_method(stage, nets, None, size))


def check(job: Job, stage: AutoencoderStage, path: str) -> None:
    """Refuses, before anything runs, what the stage cannot do.

    Args:
        job: The job.
        stage: The stage.
        path: Its section of the config.

    Raises:
        UserError: Names the value.
    """
    train = stage.train
    every = train.figure_every if "figure_every" in stage.own_train else 0
    if every:
        raise ConfigError(
            f"{path}.train.figure_every={every}: an autoencoder makes no"
            " images from noise; its errors are in every line with a picture, set 0"
        )
    try:
        parallel.check_batch_size(train.batch_size, job.mesh, train.num_microbatches)
    except ConfigError as error:
        raise ConfigError(f"{path}.train.{error}") from error
    known = ("params", *build.averages(stage, "student"))
    if train.result not in known:
        raise ConfigError(
            f"{path}.train.result={train.result!r}: the stage has"
            f" {', '.join(known)}; choose one, or ask optim for an average"
        )
    try:
        trained.make(
            stage.network.name,
            image_shape=job.recipe.space.pixel_shape,
            precision=stage.precision,
            **stage.network.keywords,
        )
    except ConfigError as error:
        raise ConfigError(f"{path}.network.{error}") from error
    try:
        for found in plan(job, stage).method.pretrained.values():
            found.read()  # which says what is wrong with a file
    except UserError as error:
        raise type(error)(f"{path}.method.{error}") from error


def split(stage: AutoencoderStage, images: Images) -> tuple[Images, Images]:
    """(the images that are held out, those that are trained on).

    Raises:
        DataError: If there are too few for both.
    """
    num = stage.num_held_out
    if images.num < num + 2:
        raise DataError(
            f"stages.{stage.name}.num_held_out={num}: data {images.name!r} has"
            f" {images.num} images, and 2 or more must be left to train on; hold out"
            " fewer"
        )
    # The order of files may be that of classes.
    places = data_batches.permutation(0, 0, images.num)
    return _part(images, np.sort(places[:num])), _part(images, np.sort(places[num:]))


def _part(images: Images, places: np.ndarray) -> Images:
    """The images at these places, as a set of their own."""
    whole = images.in_memory
    return images._replace(
        read=lambda indices: images.read(places[indices]),
        labels=images.labels[places],
        num=len(places),
        in_memory=None if whole is None else whole[places],
        encoded=None,
    )


def _begin(
    job: Job,
    stage: AutoencoderStage,
    made: Plan,
    images: Images,
    programs: loop.Programs,
    checkpoints: Checkpoints,
) -> tuple[Fed, Any, int]:
    """(what is fed, state, step): the first state, or that of the last checkpoint."""
    method, train, mesh = made.method, stage.train, job.mesh
    one = Students(ONE, (0,), mesh)
    root_keys = one.root_keys(job.seed(stage.name))
    data, batches = one.feed(job, stage, method, images, train.batch_size)
    frozen = {role: found.read() for role, found in method.pretrained.items()}
    share = domain.whole(0, (0.0, 1.0))
    numbers = Numbers(share, jnp.int32(train.num_steps))
    fed = Fed(
        parallel.replicate({**frozen, **data}, mesh),
        parallel.by_student(jax.tree.map(lambda x: x[None], numbers), mesh),
        parallel.by_student(root_keys, mesh),
        batches,
    )

    def first(given, root_key):
        (key,) = rng.stream(root_key[None], "init")
        return init_state(method, made.optim, given, key)

    lies = programs.layout
    shapes, make = one.first_states(first, {}, set(), root_keys, lies)
    found = checkpoints.restore_latest(parallel.abstract(shapes, mesh, lies))
    if found:
        return fed, *found
    return fed, parallel.lay_out(make(), mesh, lies), 0
