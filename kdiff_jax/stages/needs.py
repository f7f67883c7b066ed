"""What a training stage holds and costs, from shapes alone: nothing is computed."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from kdiff_jax import build, interop
from kdiff_jax.build import TrainStage
from kdiff_jax.interop import Spec
from kdiff_jax.method import Method
from kdiff_jax.stages import Job, before
from kdiff_jax.train import cost, layout, parallel
from kdiff_jax.train.cost import Cost
from kdiff_jax.train.layout import Layout
from kdiff_jax.train.state import TrainState, init_state, split

SEVERAL = 8  # devices that a plan made on one of them speaks of, too


class Held(NamedTuple):
    """Bytes that a training stage holds on every device, beside activations.

    Attributes:
        state: All trained roles: parameters, optimizer state and moving average; and
            the carry. In the layout "zero1" it is a part of them.
        gradients: Gradients of the phase that has most.
        frozen: Networks that only give: the teacher, and those of files.
        gathered: Copy of the parameters that lie in parts, for the losses.
    """

    state: int
    gradients: int
    frozen: int
    gathered: int = 0


class Needs(NamedTuple):
    """What a training stage holds and costs.

    Attributes:
        held: In the layout of the stage.
        saved: Bytes of a checkpoint of one student.
        cost: Cost of a step.
        layouts: Name of a layout -> what is held in it, on `num_devices` of a student.
        num_devices: Those that there are, or SEVERAL where there is one.
    """

    held: Held
    saved: int
    cost: Cost
    layouts: Mapping[str, Held]
    num_devices: int


def needs(job: Job, stage: TrainStage) -> Needs:
    """What a training stage holds and costs, from shapes; nothing is computed."""
    _, method, state, frozen = shapes(job, stage)
    part = max(stage.train.batch_size // stage.train.num_microbatches, 1)
    costs = cost.of_method(method, state, frozen, batch_size=part)
    here = mesh_of(job, stage).shape["data"]
    num = here if here > 1 else SEVERAL
    kinds = dict(replicated=layout.REPLICATED, zero1=Layout(num, layout.SMALLEST))
    all_held = {
        name: _held(method, state, frozen, lies) for name, lies in kinds.items()
    }
    own = _held(method, state, frozen, layout_of(job, stage))
    return Needs(own, bytes_of(state), costs, layouts=all_held, num_devices=num)


def held(job: Job, stage: TrainStage) -> Held:
    """What a stage holds, from shapes, those of networks in files included."""
    return _held(*shapes(job, stage)[1:], layout_of(job, stage))


class Shapes(NamedTuple):
    """A training stage, as shapes.

    Attributes:
        networks: Those that it is given.
        method: Method that trains them.
        state: Its first state, of one student.
        frozen: Parameters that it only reads, by role.
    """

    networks: build.Networks
    method: Method
    state: TrainState
    frozen: Mapping[str, Any]


def shapes(job: Job, stage: TrainStage) -> Shapes:
    """Shapes of what a stage trains and reads, networks of files included."""
    precision, specs = stage.precision, [before.spec(job, stage)]
    student, process = _network(specs[0], precision)
    nets = {"student": student}
    if stage.init.teacher is not None:
        specs.append(before.origin(job, stage))
        nets["teacher"], _ = _network(specs[1], precision)
    batch_size = stage.train.batch_size
    method, optim = build.make_method(stage, nets, process, batch_size)
    key = jax.random.key(0)
    # A student that begins elsewhere may be smaller than the teacher.
    given = {
        r: jax.eval_shape(nets[r].init, key) for r in nets if r in stage.init.sources
    }
    files = {role: found.shapes for role, found in method.pretrained.items()}
    begun = {**given, **{role: files[role] for role in method.begins_with}}
    state = jax.eval_shape(lambda given: init_state(method, optim, given, key), begun)
    frozen = {**given, **files}
    frozen = {role: frozen[role] for role in method.frozen if role in frozen}
    networks = build.Networks(nets, process, tuple(specs))
    beside = {k: v for k, v in student.reads.items() if k not in method.nets}
    return Shapes(networks, method, state, frozen | beside)


def mesh_of(job: Job, stage: TrainStage):
    """The devices, in groups of those of a student."""
    return parallel.student_mesh(job.mesh, before.num_students(job, stage))


def layout_of(job: Job, stage: TrainStage) -> Layout:
    return layout.of(stage.train.layout, mesh_of(job, stage))


def _held(method, state, frozen, lies: Layout) -> Held:
    def gradients(phase):
        moving = [
            split(state.nets[role].params, method.trainable.get(role))[0]
            for role in phase.trains
        ]
        return bytes_of(moving)

    return Held(
        state=lies.bytes_of_device(state),
        gradients=max(gradients(phase) for phase in method.phases),
        frozen=bytes_of(frozen),
        gathered=lies.bytes_gathered(state),
    )


@functools.lru_cache
def _network(spec: Spec, precision: str):
    """(Net, process) of a spec; a network that is met again is not traced again."""
    net, process = interop.build(spec, precision)
    calls = (net.apply, net.encode, net.with_features)
    apply, encode, with_features = (f and jax.jit(f) for f in calls)
    jitted = net._replace(apply=apply, encode=encode, with_features=with_features)
    return jitted, process


def memory(job, stage: TrainStage, costs: Cost, held: Held, num_devices: int) -> float:
    """Bytes on each of `num_devices` of a student, activations included."""
    num = before.num_students(job, stage)
    turns = num // mesh_of(job, stage).shape["student"]
    local = -(-stage.train.batch_size // num_devices)
    micro = -(-local // stage.train.num_microbatches)
    # Of several students on a device all states are there, and one is at work.
    own_teachers = job.split(stage.init.teacher)
    each = held.state + (held.frozen if own_teachers else 0)
    return sum(held) + (turns - 1) * each + micro * costs.kept


def bytes_of(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
