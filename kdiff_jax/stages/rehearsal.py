"""The stages of a job on shapes alone, so that none is refused when its turn comes.

Methods and losses say themselves what they cannot do, some of it only when they see the
shapes of a batch. So every method is made, its files are read, and its losses are
traced, before the first stage starts: seconds, where the first stages may take days.
"""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import build, domain, interop, methods
from kdiff_jax.build import EvaluateStage, Init, PairsStage, Stage, TrainStage
from kdiff_jax.data import class_prompts
from kdiff_jax.data.images import Images
from kdiff_jax.errors import ConfigError, DataError, UserError
from kdiff_jax.interop import Spec, training
from kdiff_jax.interop.checkpoint import spec_of
from kdiff_jax.method import Method, Numbers
from kdiff_jax.metrics import features, groups, table
from kdiff_jax.metrics.moments import check_memory
from kdiff_jax.stages import Job, asked, autoencoder, before, compared, quick
from kdiff_jax.train import inputs, label_protocols, parallel, seeds
from kdiff_jax.train.state import NetState, TrainState
from kdiff_jax.train.step import context_of

log = logging.getLogger(__name__)


def check(job: Job, data: Images | None = None) -> None:
    """Refuses what a stage would be refused for that has not begun.

    Args:
        job: The job; a teacher that is brought is there, or the config describes it.
        data: Its images, if they are there.

    Raises:
        UserError: As the stage would, with its section of the config.
    """
    for stage in job.stages:
        if job.is_done(stage) or training.find(job.left(stage.name)):
            continue
        if stage.kind == "train" or stage.kind == "pairs":
            _sampler(job, stage)
        if stage.kind == "train":
            quick.check(job, stage, build.spec_of(stage, _origin(job, stage)))
            try:
                _train(job, stage)
            except UserError as error:
                raise type(error)(_placed(str(error), job, stage)) from error
        elif stage.kind == "evaluate":
            _evaluate(job, stage, data)
        elif stage.kind == "autoencoder" and data is not None:
            autoencoder.split(stage, data)


def _sampler(job: Job, stage: TrainStage | PairsStage) -> None:
    """Makes the sampler of a stage: its grid may not be one of the process.

    Raises:
        ConfigError: Names the keyword as the command line does.
    """
    spec = build.spec_of(stage, _origin(job, stage))
    try:
        interop.sampler_of(spec, spec.make_process())
    except ConfigError as error:
        key = str(error).partition("=")[0]
        own = key in stage.sampler
        place = job.section(stage.name) if own else "--config.model"
        raise ConfigError(f"{place}.sampler.{error}") from error


def _placed(text: str, job: Job, stage: TrainStage) -> str:
    """The text with the option that it is about; it may begin with a keyword."""
    place, name = job.section(stage.name), stage.method.name
    if text.startswith(("stages.", "--config.")):
        return text
    keyword = re.match(r"(\w+)=", text)
    if keyword and keyword[1] in methods.keywords(name):
        return f"{place}.method.{text}"
    return f"{place}.method.name={name}: {text}"


class _Case(NamedTuple):
    """A training stage as far as its losses depend on it.

    Attributes:
        specs: Specs of the student and, if there is one, of the teacher.
        stage: The stage without what it is called and where it begins.
        batch_size: Images of a device and microbatch.
        augmented: Keywords of `inputs.make`.
    """

    specs: tuple[Spec, ...]
    stage: TrainStage
    batch_size: int
    augmented: Mapping[str, Any]


_passed: set[_Case] = set()  # rounds, and runs of one process, often differ in nothing


def _train(job: Job, stage: TrainStage) -> None:
    origin = _origin(job, stage)
    spec = build.spec_of(stage, origin)
    specs = (spec, origin) if stage.init.teacher is not None else (spec,)
    mesh = parallel.student_mesh(job.mesh, before.num_students(job, stage))
    parts = mesh.shape["data"] * stage.train.num_microbatches
    batch_size = stage.train.batch_size
    specs = tuple(one.defining() for one in specs)
    nameless = dataclasses.replace(stage, name="", init=Init(), own_train=())
    augmented = job.recipe.augmented
    case = _Case(specs, nameless, batch_size // parts, augmented)
    if case in _passed:
        return
    built = [interop.build(one, stage.precision) for one in specs]
    nets = dict(zip(("student", "teacher"), (net for net, _ in built), strict=False))
    method, optim = build.make_method(stage, nets, built[0][1], batch_size)
    _say_unused(stage, method)
    for found in method.pretrained.values():
        found.read()  # which says what is wrong with a file
    _trace(method, optim, nets, case)
    if not method.pretrained:  # files may be others the next time
        _passed.add(case)


def _origin(job: Job, stage: Stage) -> Spec:
    """The spec of a stage's teacher; of one that is brought, what its file says."""
    source = stage.init.teacher
    for other in job.stages:
        if other.kind == "train" and other.name == source:
            return build.spec_of(other, _origin(job, other))
    if not source or job.names_role(source) or before.is_absent(source):
        return job.recipe.spec
    spec = build.brought(job.recipe, spec_of(source))
    build.check_fits(job.recipe, "teacher", spec)
    return spec.replace(sampler=job.recipe.spec.sampler)


def _say_unused(stage: TrainStage, method: Method) -> None:
    for role in stage.roles:
        if role not in method.nets:
            log.warning(
                "%s: the section roles.%s is not used, method %r with these options"
                " trains %s",
                *(stage.name, role, stage.method.name),
                ", ".join(method.nets),
            )


def _trace(method: Method, optim, nets, case: _Case) -> None:
    """Raises what a loss says of the shapes of its batch."""
    root, student = jax.random.key(0), nets["student"]
    space = student.space
    params = {r: jax.eval_shape(net.init, root) for r, net in method.nets.items()}
    frozen = {
        role: jax.eval_shape(nets[role].init, root)
        for role in method.frozen
        if role in nets
    }
    num = case.batch_size
    batch = {
        "x0": jax.ShapeDtypeStruct((num, *space.pixel_shape), jnp.uint8),
        "y": jax.ShapeDtypeStruct((num,), jnp.int32),
    }
    if "z" in method.batch_keys:
        batch["z"] = jax.ShapeDtypeStruct((num, *space.shape), jnp.float16)
        batch["x0"] = jax.eval_shape(space.to_kept, _float32(batch["z"]))
    settings = {**method.settings, **case.stage.settings}
    share = domain.whole(nets["student"].num_classes, (0.0, 1.0))
    augmented = {} if "z" in batch else case.augmented
    as_batch = inputs.make(space=space, conditions=method.conditions, **augmented)

    def losses(params, frozen, carry, settings, batch, keys):
        batch = as_batch(frozen, batch, keys)
        numbers = Numbers(share, jnp.int32(1), settings)
        nets = {
            role: NetState(own, (), dict.fromkeys(optim[role].emas, own))
            for role, own in params.items()
        }
        state = TrainState(jnp.int32(0), nets, carry)
        ctx = context_of(state, frozen, numbers, batch, keys)
        ctx = ctx._replace(batch=method.prepare(ctx))
        return [p.loss({r: params[r] for r in p.trains}, ctx) for p in method.phases]

    settings = {name: jnp.asarray(value) for name, value in settings.items()}
    files = {role: found.shapes for role, found in method.pretrained.items()}
    given = {**frozen, **files, **student.reads}
    keys = jax.random.split(root, num)
    try:
        jax.eval_shape(losses, params, given, method.carry, settings, batch, keys)
    except UserError:
        raise
    except Exception as error:  # a bug, which is not told from one of this rehearsal
        log.debug("the losses cannot be traced on shapes: %s", error)


def _float32(x):
    return jax.ShapeDtypeStruct(x.shape, jnp.float32)


def _evaluate(job: Job, stage: EvaluateStage, data: Images | None) -> None:
    options, place = stage.options, "--config.evaluate"
    num_classes = job.recipe.num_classes
    try:
        label_protocols.check(options.labels, num_classes)
        seeds.of(options.seed, options.seeds)
        if not (name := options.features):
            return
        asked.check(options, job.recipe.spec)
        if compared.left_out(job, options):
            return
        extractor = compared.features_of(options, None)
        shape = compared.shape_of(job, options)
        features.check_shape(extractor, shape)
        table.check(options.metrics, extractor, options.num_images)
        compared.check_reference(job, options, extractor, data)
        if asked.CLASSES in table.needs(options.metrics):
            _check_asked(job, extractor.extractor.classes)
        section = job.recipe.partition
        groups.check(options.per, num_classes, section.num_groups if section else 1)
    except UserError as error:
        raise type(error)(f"{place}.{error}") from error
    check_memory(f"{place}.features={name}", features.dim_of(extractor, shape))
    if data is not None and data.num < 2:
        raise DataError(
            f"{place}.features={name}: a single image of {data.name} has no covariance;"
            f" give two, or set {place}.features='' for pictures alone"
        )


def _check_asked(job: Job, names: Sequence[str]) -> None:
    """Refuses conditions that name no class of a classifier, as far as is known.

    Raises:
        ConfigError: Names the metric.
    """
    recipe = job.recipe
    texts = class_prompts.texts(recipe.class_names, recipe.templates)
    if texts or not recipe.conditions.dim:
        labels = np.arange(recipe.num_classes)
        told = asked.Asked(lambda seed: labels, lambda seed: texts or None, {})
        told.classes(0, names, recipe.num_classes)
