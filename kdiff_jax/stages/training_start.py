"""How a training stage begins: its inputs, and its first state or that of a step."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from kdiff_jax import build, domain, rng
from kdiff_jax.build import TrainStage
from kdiff_jax.method import Numbers
from kdiff_jax.stages import Job, apart, pairs
from kdiff_jax.stages.training_plan import Plan
from kdiff_jax.train import parallel
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.state import init_state

logger = logging.getLogger(__name__)


class Fed(NamedTuple):
    """What the step reads beside the state, on the devices; and its batches."""

    frozen: Mapping[str, Any]
    numbers: Numbers
    root_keys: Any
    batches: Any


def begin(
    job: Job, stage: TrainStage, plan: Plan, checkpoints: Checkpoints
) -> tuple[Fed, Any, int]:
    """(what is fed, state, step): the first state, or that of the last checkpoint."""
    method, many, mesh = plan.method, plan.students, plan.students.mesh
    given, own = plan.roles.params, plan.own
    seed = job.seed(stage.name)  # every stage draws for itself
    root_keys = many.root_keys(seed)
    frozen = {role: given[role] for role in method.frozen if role in given}
    files = {role: found.read() for role, found in method.pretrained.items()}
    frozen |= {role: x for role, x in files.items() if role in method.frozen}
    given = {**given, **{role: files[role] for role in method.begins_with}}
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


def _source(job: Job, stage: TrainStage):
    if stage.pairs:
        return pairs.source(job, stage.pairs)
    if job.recipe.latents:
        return build.load_latents(job.recipe)
    return build.load_images(job.recipe)
