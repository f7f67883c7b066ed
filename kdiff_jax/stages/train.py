"""A training stage: any method, from its inputs to a model folder."""

import contextlib
import json
import logging
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdiff_jax import build, domain, interop, rng
from kdiff_jax.build import TrainStage
from kdiff_jax.build.sections import Train
from kdiff_jax.data import batches as data_batches
from kdiff_jax.errors import CheckpointError, NumericsError
from kdiff_jax.interop import training
from kdiff_jax.method import Method, Numbers
from kdiff_jax.named import named
from kdiff_jax.partition import same_owners
from kdiff_jax.stages import (
    Job,
    apart,
    denoised,
    finish,
    grids,
    pairs,
    results,
    roles,
    scores,
    students,
)
from kdiff_jax.stages.hooks import Log, Saver
from kdiff_jax.stages.roles import Roles
from kdiff_jax.stages.scores import Scores
from kdiff_jax.stages.students import Students
from kdiff_jax.train import loop, parallel, signals
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.step import init_state

logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What a stage trains, before anything is on the devices.

    Attributes:
        roles: Networks, and the parameters that are given.
        own: Roles whose given parameters have an axis of students.
        students: Those that this run trains.
        method: Method that trains them.
        optim: `Optim` of each role.
        programs: The compiled steps.
    """

    roles: Roles
    own: set[str]
    students: Students
    method: Method
    optim: Mapping[str, Any]
    programs: loop.Programs


class Fed(NamedTuple):
    """What the step reads beside the state, on the devices; and its batches."""

    frozen: Mapping[str, Any]
    numbers: Numbers
    root_keys: Any
    batches: Any


def run(job: Job, stage: TrainStage) -> None:
    """Trains, or resumes, and leaves `model/` in the stage's folder.

    Raises:
        Interrupted: If a signal asked to stop; everything is saved.
        NumericsError: If a loss or gradient is not finite, or far above its usual size.
            What was saved meanwhile is set aside.
    """
    folder, train = job.folder(stage.name), stage.train
    plan = prepare(job, stage)
    folder.mkdir(parents=True, exist_ok=True)
    _describe(folder, plan, stage, job.frozen)
    checkpoints = Checkpoints(folder / "checkpoints", keep=train.keep)
    fed, state, step = _begin(job, stage, plan, checkpoints)
    plan = plan._replace(roles=plan.roles.without_params())
    log = _log(folder, stage, plan.students, first_step=step)
    saver = Saver(checkpoints, train.save_minutes, log.watch)
    found = scores.of_stage(job, stage, plan, log, first_step=step, fed=fed)
    about = plan.method, plan.roles, plan.students, fed.frozen, plan.own
    also = denoised.of_stage(job, stage, *about, log)
    shown = grids.of_stage(job, stage, plan.roles, plan.students, log, also=also)
    stream = data_batches.iterate(fed.batches, start_step=step)
    try:
        if step < train.num_steps:
            shown.begin()
        if found.figures:
            found.figures.begin(step, state, train)
        with _going_back(saver, job.section(stage.name)):
            state = loop.run(
                plan.programs,
                state,
                frozen=fed.frozen,
                numbers=fed.numbers,
                batches=stream,
                root_keys=fed.root_keys,
                num_steps=train.num_steps,
                hooks=_hooks(train, log, found, shown, saver),
                save=saver.now,
                observe=log.observe,
                steps_per_dispatch=_per_dispatch(train),
            )
    finally:
        stream.close()
        log.close()
        checkpoints.close()
    signals.release()
    params = results.params_of(state.nets["student"], results.average(train))
    facts: dict[str, Any] = {"train_seconds": log.seconds}
    if found.best:
        params, facts["best"] = found.best.params(params)
    _leave(job, stage, plan, params, facts)


def _log(
    folder: pathlib.Path, stage: TrainStage, students: Students, *, first_step: int
) -> Log:
    """The log of a stage, in which several students are named."""
    return Log(
        folder,
        stage.name,
        stage.train,
        first_step=first_step,
        num_students=len(students.ids),
        students=students.ids if students.partition.num_students > 1 else (),
        late=jax.default_backend() != "cpu",  # which has nothing else to do
    )


@contextlib.contextmanager
def _going_back(saver: Saver, section: str):
    """Sets aside what a student that diverges in this block has saved."""
    try:
        yield
    except NumericsError as error:
        raise NumericsError(
            f"{error}; {saver.go_back()}. Lower {section}.optim.lr or set .clip_norm,"
            " with --force_config_change or in another workdir"
        ) from error


def prepare(job: Job, stage: TrainStage) -> Plan:
    """The networks, students, method and programs of a stage; nothing is computed."""
    if job.only is not None and job.split(stage.name):
        apart.check_before(job, stage)
    found = roles.find(job, stage)
    many = students.find(job, stage, found.process, found.teacher)
    if many.is_part:
        apart.check_alike(job, stage, many.partition)
    teachers = found.teacher.num_students if found.teacher else 1
    method, optim, programs = build.program(
        job.programs,
        job.recipe,
        stage,
        build.Networks(found.nets, found.process, _specs(found)),
        mesh=many.mesh,
        own=("teacher",) if teachers > 1 and len(many.ids) > 1 else (),
    )
    method = roles.begin(stage, method)
    spec = found.spec.replace(
        sampler=named(method.sampler) if method.sampler else found.spec.sampler,
        partition=many.partition if many.owners.num_students > 1 else None,
    )
    params = found.params | roles.trained(job, stage, method)
    found = found._replace(spec=spec, params=params)
    params, own = roles.to_each(found, many, stage, method)
    found = found._replace(params=params)
    if many.partition.num_students > 1:
        for line in many.partition.table().splitlines():
            logger.info("%s: %s", stage.name, line)
    return Plan(found, own, many, method, optim, programs)


def _describe(
    folder: pathlib.Path, plan: Plan, stage: TrainStage, frozen: domain.Frozen
) -> None:
    """Says what the steps of the stage's folder are, if they are what it said before.

    Raises:
        CheckpointError: If the network is defined otherwise, or the partition is
            another.
    """
    stored = results.average(stage.train) or "params"
    whole = plan.students.partition
    owners = whole if whole.num_students > 1 else None
    powers = build.powers(stage, "student")
    about = training.Description(plan.roles.spec, "student", stored, owners, powers)
    _check_begun(folder, about)
    training.describe(folder, about, frozen)


def _check_begun(folder: pathlib.Path, about: training.Description) -> None:
    """What was begun must still mean the same.

    Raises:
        CheckpointError: If the network is defined otherwise, or the partition is
            another.
    """
    begun = folder / interop.STAGE
    if not begun.is_file():
        return
    try:
        before = training.description(folder)
    except CheckpointError as error:
        logger.error("%s", error)
        return  # it is written anew
    interop.check_revision(before.spec)
    if not same_owners(before.partition, about.partition):
        raise CheckpointError(
            f"{begun}: was begun with another partition of the classes or times; take"
            " another --workdir"
        )


def _begin(
    job: Job, stage: TrainStage, plan: Plan, checkpoints: Checkpoints
) -> tuple[Fed, Any, int]:
    """(what is fed, state, step): the first state, or that of the last checkpoint."""
    method, many, mesh = plan.method, plan.students, plan.students.mesh
    given, own = plan.roles.params, plan.own
    seed = job.seed(stage.name)  # every stage draws for itself
    root_keys = many.root_keys(seed)
    frozen = {role: given[role] for role in method.frozen if role in given}
    frozen |= {role: found.read() for role, found in method.pretrained.items()}
    frozen |= job.frozen
    data, batches = many.feed(
        job, stage, method, _source(job, stage), stage.train.batch_size
    )
    process, num_classes = plan.roles.process, plan.roles.spec.num_classes
    num_steps = stage.train.num_steps
    numbers = Numbers(
        domain.whole(num_classes, (process.t_min, process.t_max)),
        jnp.int32(num_steps),
        {**method.settings, **{k: jnp.int32(v) for k, v in stage.settings.items()}},
    )
    fed = Fed(
        {
            role: (parallel.by_student if role in own else parallel.replicate)(x, mesh)
            for role, x in {**frozen, **data}.items()
        },
        parallel.by_student(many.numbers(process, method, numbers), mesh),
        parallel.by_student(root_keys, mesh),
        batches,
    )

    def first(given, root_key):
        (key,) = rng.stream(root_key[None], "init")
        return init_state(method, plan.optim, given, key)

    layout = plan.programs.layout
    shapes, make = many.first_states(first, given, own, root_keys, layout)
    template = parallel.abstract(shapes, mesh, layout)
    found = checkpoints.restore_latest(template)
    parts = apart.parts(job, stage, many)
    if parts and (not found or found[1] < num_steps):
        found = apart.join(parts, shapes, mesh, layout, num_steps)
        checkpoints.save(num_steps, found[0])
        apart.join_logs(parts, job.folder(stage.name))
        logger.info("%s: joined %d students", stage.name, len(parts))
    if not found:
        return fed, parallel.lay_out(make(), mesh, layout), 0
    logger.info("%s: resumes at step %d", stage.name, found[1])
    return fed, found[0], found[1]


def _hooks(
    train: Train, log: Log, found: Scores, shown, saver: Saver
) -> list[loop.Hook]:
    """In order: what a line of the log holds, the line, and saved is what is known."""
    before, after = found.hooks(train)
    return [
        *before,
        loop.Hook(train.log_every, log),
        *after,
        loop.Hook(train.sample_every, shown),
        loop.Hook(train.save_every, saver),
        loop.Hook(train.log_every, saver.if_late),
    ]


def _per_dispatch(train: Train) -> int:
    """Steps of one program: a gradient inside a loop is slow on the CPU."""
    automatic = 1 if jax.default_backend() == "cpu" else 10
    return train.steps_per_dispatch or automatic


def _leave(
    job: Job, stage: TrainStage, plan: Plan, params, more: Mapping[str, Any]
) -> None:
    """Writes the model and marks the stage as done."""
    params, many = parallel.to_host(params), plan.students
    if len(many.ids) == 1:
        params = jax.tree.map(lambda x: x[0], params)
    if jax.process_index() != 0:
        return
    train = stage.train
    num_images = train.num_steps * train.batch_size * len(many.ids)
    facts = {
        "train_steps": train.num_steps,
        "train_images": num_images,
        **more,
        "method": stage.method.name,
        "average": results.average(train) or "params",
    }
    if many.partition.num_students > 1:
        facts["num_students"] = len(many.ids)
    folder, card = job.folder(stage.name), _card(job, stage, facts, many)
    interop.save(
        folder / "model",
        params=params,
        spec=plan.roles.spec,
        card=card,
        frozen=job.frozen,
    )
    finish(folder, **facts)


def _source(job: Job, stage: TrainStage):
    if stage.pairs:
        return pairs.source(job, stage.pairs)
    return build.load_images(job.recipe)


def _specs(found: Roles):
    """What of the networks a compiled program depends on."""
    teacher = [found.teacher.spec] if found.teacher else []
    return tuple(spec.defining() for spec in (found.spec, *teacher))


def _card(job: Job, stage: TrainStage, facts, many: Students) -> str:
    date = time.strftime("%Y-%m-%d")
    table = many.partition.table().splitlines()
    if len(table) == 1:
        table = []
    if many.is_part:
        table = [f"One of {len(table)}, trained alone:", *(table[k] for k in many.ids)]
    owns = "".join(f"* {line}\n" for line in table) + "\n" * bool(table)
    best = facts.get("best", {})
    chosen = (
        f"The best by {best['figure']}: {best['value']:.4g} at step {best['step']}.\n\n"
        if best
        else ""
    )
    return (
        f"# {job.recipe.name}: {stage.name}\n\n"
        f"Trained {date} with kdiff_jax, method `{facts['method']}`,"
        f" {facts['train_steps']} steps.\n\n{chosen}{owns}"
        f"```json\n{json.dumps(stage.section, indent=1)}\n```\n"
    )
