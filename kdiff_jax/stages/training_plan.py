"""What a training stage trains, before anything is on the devices."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from kdiff_jax import build, domain, interop
from kdiff_jax.build import TrainStage
from kdiff_jax.encoders import texts
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import training
from kdiff_jax.method import Method
from kdiff_jax.named import named
from kdiff_jax.partition import same_owners
from kdiff_jax.stages import Job, apart, results, roles, students
from kdiff_jax.stages.roles import Roles
from kdiff_jax.stages.students import Students
from kdiff_jax.train import loop

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


def _specs(found: Roles):
    """What of the networks a compiled program depends on."""
    teacher = [found.teacher.spec] if found.teacher else []
    return tuple(spec.defining() for spec in (found.spec, *teacher))


def describe(
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
    beside = (texts.ROLE,) if stage.trains_text else ()
    about = training.Description(
        plan.roles.spec, "student", stored, owners, powers, beside
    )
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
