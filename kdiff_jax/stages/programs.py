"""The programs of a job's stages, lowered from shapes for whatever devices it has.

Nothing is computed, and no file of weights is read: the devices need not be there.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kdiff_jax import build, domain, interop
from kdiff_jax.build import TrainStage
from kdiff_jax.interop import Spec
from kdiff_jax.method import Numbers
from kdiff_jax.stages import Job, before, needs
from kdiff_jax.train import generate, measure, parallel

SCHEDULE = 4096  # steps in which a schedule has shown all that it does


class Program(NamedTuple):
    """One program of a stage.

    Attributes:
        name: The phases that are due in it, or what it makes.
        share: Share of a stage's steps that are this program's.
        flops: Floating point operations of a device, as our own count has them.
        lower: () -> `jax.stages.Lowered`.
    """

    name: str
    share: float
    flops: float
    lower: Callable[[], Any]


def of_training(job: Job, stage: TrainStage) -> Iterator[Program]:
    """The programs of a training stage's single steps, by the phases that are due.

    Raises:
        CheckpointError: If a file is missing whose shapes the method needs.
        ConfigError: If the stage cannot be built.
    """
    found = needs.shapes(job, stage)
    num = before.num_students(job, stage)
    mesh = needs.mesh_of(job, stage)
    several = num > 1 and job.split(stage.init.teacher)
    own = ("teacher",) if several else ()
    program = build.program({}, job.recipe, stage, found.networks, mesh=mesh, own=own)
    given = _given(job, stage, found, program.method, own=own)
    costs = needs.needs(job, stage).cost
    images = stage.train.batch_size / mesh.shape["data"]
    steps = range(min(stage.train.num_steps, SCHEDULE))
    due = {step: program.steps.due(step) for step in steps}
    for phases, times in Counter(due.values()).items():
        step = next(k for k in steps if due[k] == phases)

        def lower(step=step):
            return program.steps.compiled(step, 1, given[0]).lower(*given, np.int32(0))

        names = [phase.name for phase in phases]
        flops = 2 * images * costs.macs_of(names)
        yield Program(" + ".join(names), times / len(steps), flops, lower)


def _given(job: Job, stage: TrainStage, found: needs.Shapes, method, *, own):
    """Shapes of (state, frozen, numbers, batch, root keys), and where they lie."""
    mesh, num = needs.mesh_of(job, stage), before.num_students(job, stage)

    def at(place, tree):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, place)
            ),
            tree,
        )

    def of_all(tree):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((num, *np.shape(x)), jnp.result_type(x)),
            tree,
        )

    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((num, *x.shape[1:]), x.dtype), found.state
    )
    frozen = {
        role: at(P("student"), of_all(x)) if role in own else at(P(), x)
        for role, x in found.frozen.items()
    }
    share = domain.whole(job.recipe.num_classes, (0.0, 1.0))
    settings = {**method.settings, **dict.fromkeys(stage.settings, jnp.int32(1))}
    numbers = of_all(Numbers(share, jnp.int32(1), settings))
    sent = mesh.shape["student"], stage.train.batch_size
    batch = {
        name: jax.ShapeDtypeStruct((*sent, *x.shape), x.dtype)
        for name, x in _examples(job, method).items()
    }
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num))
    return (
        parallel.abstract(state, mesh, needs.layout_of(job, stage)),
        frozen,
        at(P("student"), numbers),
        at(P("student", "data"), batch),
        at(P("student"), keys),
    )


def _examples(job: Job, method) -> dict[str, jax.ShapeDtypeStruct]:
    """Name -> what a host sends of one example; sets that devices hold are no others.

    A batch of images is what it was on the devices: at most a little more is sent.
    """
    space, kept = job.recipe.space, job.recipe.space.pixel_shape
    x0 = jax.ShapeDtypeStruct(kept, jnp.uint8)
    if job.recipe.latents:
        moments = (*space.shape[:2], space.moments)
        x0 = jax.ShapeDtypeStruct(moments, jnp.float16)
    found = {"x0": x0, "y": jax.ShapeDtypeStruct((), jnp.int32)}
    if "z" in method.batch_keys:
        found["z"] = jax.ShapeDtypeStruct(space.shape, jnp.float16)
        found["x0"] = jax.ShapeDtypeStruct(space.shape, space.kept)
    return found


def of_sampling(
    job: Job, spec: Spec, num_images: int, precision: str, *, name: str
) -> Program:
    """The program that makes so many images at once, down to their pixels.

    Args:
        job: The job.
        spec: The model, with its sampler; of a partition, one student of it.
        num_images: Rounded up to a multiple of the devices.
        precision: See `interop.build`.
        name: Name of the model.
    """
    net, process = interop.build(spec, precision)
    make = generate.Generator(net, interop.sampler_of(spec, process), job.mesh)
    everywhere = NamedSharding(job.mesh, P())
    size = -(-num_images // job.mesh.size) * job.mesh.size

    def at(tree):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree
        )

    program: Any = make.program

    def lower():
        return program.lower(
            at(jax.eval_shape(net.init, jax.random.key(0))),
            at(net.reads),
            jax.ShapeDtypeStruct((), jnp.uint32, sharding=everywhere),
            jax.ShapeDtypeStruct((size,), jnp.int32, sharding=everywhere),
            jax.ShapeDtypeStruct((size,), jnp.int32, sharding=everywhere),
        )

    title = f"{name}: {size} images by {make.sampler.name}"
    flops = 2.0 * measure.macs(net) * make.sampler.nfe * size / job.mesh.size
    return Program(title, 1.0, flops, lower)
