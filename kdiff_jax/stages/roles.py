"""The roles of a training stage: their networks, and the weights they begin with."""

import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import build, interop, networks
from kdiff_jax import partition as partitions
from kdiff_jax.build import TrainStage
from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import Model, Spec
from kdiff_jax.method import Method, Net
from kdiff_jax.networks import blocks, channels
from kdiff_jax.stages import Job
from kdiff_jax.stages.students import Students

logger = logging.getLogger(__name__)


class Roles(NamedTuple):
    """What a stage is given.

    Attributes:
        nets: Network of the student, and of the teacher if there is one, by role.
        process: The forward process.
        spec: Spec of the student.
        models: Given models by role.
        params: Given parameters by role; those of several students have an axis of
            them.
    """

    nets: dict[str, Net]
    process: Process
    spec: Spec
    models: dict[str, Model]
    params: dict[str, Any]

    @property
    def teacher(self) -> Model | None:
        return self.models.get("teacher")

    def without_params(self) -> "Roles":
        """Roles without parameters that a stage only starts from, to free memory."""
        kept = {"teacher": self.teacher} if self.teacher else {}
        return self._replace(models=kept, params={})


def find(job: Job, stage: TrainStage) -> Roles:
    """Networks and parameters of the student and the teacher.

    What else the method has is not known yet, see `trained`.

    Raises:
        CheckpointError: If a model is missing, damaged or another than needed.
    """
    origin = {role: s for role, s in stage.init.sources.items() if s and s != "random"}
    raw = {role for role, s in origin.items() if job.names_role(s)}
    given = {role: job.role(origin[role]) for role in raw & {"student", "teacher"}}
    loaded = {
        role: job.model(s, stage.precision)
        for role, s in origin.items()
        if role not in raw
    }
    for role, model in loaded.items():
        build.check_fits(job.recipe, role, model.spec)
    teacher = loaded.get("teacher")
    base = teacher.spec if teacher else job.recipe.spec
    spec = build.spec_of(stage, base).anew().without_precision()
    student, process = interop.build(spec, stage.precision)
    nets = {"student": student}
    if teacher:
        nets["teacher"] = teacher.net
        scale = stage.guidance
        for one in student.guidance_range or (() if scale is None else (scale,)):
            interop.check_guidance(teacher.spec, one)
    given |= {role: model.params for role, model in loaded.items()}
    if (stage.blocks or stage.channels) and "student" in given:
        # Of a larger network, what this one has.
        template = jax.eval_shape(student.init, jax.random.key(0))
        large = networks.grown(given["student"], template)
        if rule := stage.blocks:
            large = blocks.select(large, template, rule)
        if rule := stage.channels:
            large = channels.select(large, template, rule)
        given["student"] = large
    return Roles(nets, process, spec, loaded, given)


def begin(stage: TrainStage, method: Method) -> Method:
    """The method whose roles begin as the stage says: those of "random" are no copy."""

    copies = {
        role: source
        for role, source in method.init_from.items()
        if stage.init.sources.get(role) != "random"
    }
    return method._replace(init_from=copies)


def trained(job: Job, stage: TrainStage, method) -> dict[str, dict]:
    """Parameters of roles beside student and teacher that begin as another stage's.

    A recipe may name one that this method has with other options only, such as
    adapters of features.
    """
    found = {}
    for role, source in stage.init.sources.items():
        if role in ("student", "teacher") or not job.names_role(source):
            continue
        if role in method.nets:
            try:
                found[role] = job.role(source)
            except CheckpointError as error:
                raise CheckpointError(
                    f"init.{role}={source!r}: {error}; or set init.{role}='random'"
                ) from error
        else:
            name = stage.method.name
            logger.warning(
                "%s: init.%s is not used, method %r with these options has no such"
                " role; it has: %s",
                *(stage.name, role, name, ", ".join(method.nets)),
            )
    return found


def to_each(
    roles: Roles, students: Students, stage: TrainStage, method: Method
) -> tuple[dict[str, Any], set[str]]:
    """(parameters by role, the roles of them that have an axis of students).

    What all students begin with, or the one that a run trains, has none.

    Raises:
        CheckpointError: If parameters are of other students than the stage's, or of
            another network.
    """
    nets = {**roles.nets, **method.nets}
    found, own = dict(roles.params), set()
    for role, params in roles.params.items():
        if role not in nets or not _has_axis(params, nets[role]):
            continue
        num = len(jax.tree.leaves(params)[0])
        rows = _rows(students, stage, role, num, roles.models.get(role))
        found[role] = jax.tree.map(lambda x, rows=rows: x[rows], params)
        if np.ndim(rows):
            own.add(role)
    _check_given(stage, method, found, own)
    return found, own


def _rows(
    students: Students, stage: TrainStage, role: str, num: int, model: Model | None
):
    """Which of `num` students a role begins as: a number, or one for each student."""
    what = f"init.{role}={stage.init.sources[role]!r}: holds {num} students"
    partition, ids = students.partition, students.ids
    if partition.num_students == 1:
        raise CheckpointError(
            f"{what}, and stage {stage.name!r} has one; one of them is a model by"
            " python -m kdiff_jax.convert --student=K"
        )
    theirs = model.partition if model else partition
    if not partitions.same_owners(theirs, partition):
        raise CheckpointError(
            f"{what} of another partition than stage {stage.name!r}; make them equal"
        )
    if num != partition.num_students:
        raise CheckpointError(
            f"{what}, and stage {stage.name!r} trains {len(ids)}; make their"
            " partitions equal"
        )
    return ids[0] if len(ids) == 1 else np.array(ids)


def _has_axis(params, net: Net) -> bool:
    """Whether every leaf has one axis more than the network's."""
    expected = networks.lacking(jax.eval_shape(net.init, jax.random.key(0)), params)
    dims = [jax.tree.map(jnp.ndim, tree) for tree in (params, expected)]
    return dims[0] == jax.tree.map(lambda n: n + 1, dims[1])


def _check_given(stage: TrainStage, method, given, own) -> None:
    """Refuses weights of another network, of a stage with other options.

    Those of the roles `own` have an axis of students.

    Raises:
        CheckpointError: Names the role.
    """
    for role, net in method.nets.items():
        source = role if role in given else method.init_from.get(role)
        if source not in given:
            continue
        params = given[source]
        expected = jax.eval_shape(net.init, jax.random.key(0))
        one = jax.tree.map(lambda x: x[0], params) if source in own else params
        one = networks.grown(one, expected)
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (one, expected)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"init.{role}={stage.init.sources.get(role, source)!r}: is of another"
                f" network than the {role} of stage {stage.name!r}; make their options"
                f" equal, or set init.{role} to a stage that made one, or to 'random'"
            )
