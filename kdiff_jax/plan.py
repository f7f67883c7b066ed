"""What a recipe would do and need, from shapes alone: nothing is computed."""

import functools
from typing import NamedTuple

import jax

from kdiff_jax import build, interop
from kdiff_jax.build import AutoencoderStage, EvaluateStage, PairsStage, TrainStage
from kdiff_jax.build.resolved import Recipe
from kdiff_jax.data import pairs as pair_files
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import Spec
from kdiff_jax.stages import (
    Job,
    autoencoder,
    before,
    compared,
    evaluate,
    results,
    students,
)
from kdiff_jax.train import cost, layout, measure, parallel
from kdiff_jax.train.cost import Cost
from kdiff_jax.train.layout import Layout
from kdiff_jax.train.step import init_state, split


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


def text(job: Job) -> str:
    """Stages, shapes, parameters, FLOPs, memory per device and disk, as lines."""
    students.check(job)
    results.check(job)
    facts = _model_facts(job.recipe.spec)
    shape = "x".join(map(str, job.recipe.image_shape))
    lines = [
        f"config {job.recipe.name}, workdir {job.workdir}",
        f"devices: {job.mesh.size} x {jax.devices()[0].device_kind}",
        f"model: {job.recipe.spec.network.name},"
        f" {facts['params'] / 1e6:.2f} M parameters, images {shape},"
        f" {facts['flops'] / 1e9:.2f} GFLOP a forward pass of one image",
        f"conditions: {_conditions(job.recipe)}",
        *_autoencoder(job.recipe),
        "stages:",
    ]
    disk, known = 0, {}
    for stage in job.stages:
        if stage.kind == "train":
            # Rounds differ in their lengths alone, and hold the same.
            spec = before.spec(job, stage)
            key = spec, stage.method, stage.optim, stage.roles, _layout(job, stage)
            if key not in known:
                known[key] = needs(job, stage)
            needed = known[key]
            own = _model_facts(spec)
            lines.append(_train(job, stage, own, needed))
            lines += _figures(job, stage, spec, own)
            if needed.why:
                lines.append(f"    memory a device and disk not counted: {needed.why}")
            # Beside the newest: one that is good, the next, and one being written.
            kept = stage.train.keep + 3
            disk += kept * needed.saved * before.num_students(job, stage)
        elif stage.kind == "pairs":
            more, size = _pairs(job, stage, facts)
            lines += more
            disk += size
        elif stage.kind == "autoencoder":
            line, size = _encoder(job, stage)
            lines.append(line)
            disk += size
        else:
            lines.append(_evaluate(job, stage))
    lines.append(f"disk: {_size(disk)} at most, checkpoints and pairs together")
    return "\n".join(lines)


def _autoencoder(recipe: Recipe) -> list[str]:
    """What stands between latents and pixels, and where it comes from."""
    if not (shapes := recipe.space.shapes()):
        return []
    num = sum(x.size for x in jax.tree.leaves(shapes))
    pixels = "x".join(map(str, recipe.space.pixel_shape))
    return [
        f"autoencoder: {num / 1e6:.2f} M parameters, pixels {pixels}, from"
        f" {recipe.autoencoder or 'nowhere yet: set data.autoencoder'}"
    ]


def _conditions(recipe: Recipe) -> str:
    """What models may be asked for, and where it comes from."""
    asked = recipe.conditions
    if not asked.dim:
        return f"{asked.num} classes, labels of the data" if asked.num else "none"
    size = _bytes(asked.shapes)
    kind = f"texts of {asked.length} vectors" if asked.length else "vectors"
    return (
        f"{asked.num} {kind} of {asked.dim} entries, {_size(size)}, from {recipe.table}"
    )


class Needs(NamedTuple):
    """What a training stage holds and costs.

    Attributes:
        held: Zeros where it could not be counted.
        saved: Bytes of a checkpoint of one student.
        cost: None where it could not be counted.
        why: The reason, a file that is missing.
    """

    held: Held
    saved: int = 0
    cost: Cost | None = None
    why: str = ""


def needs(job: Job, stage: TrainStage) -> Needs:
    """What a training stage holds and costs, from shapes; nothing is computed."""
    try:
        method, state, frozen = _shapes(job, stage)
    except CheckpointError as error:  # a file that the method reads
        return Needs(Held(0, 0, 0), why=str(error))
    part = max(stage.train.batch_size // stage.train.num_microbatches, 1)
    costs = cost.of_method(method, state, frozen, batch_size=part)
    return Needs(_held(job, stage, method, state, frozen), _bytes(state), costs)


def held(job: Job, stage: TrainStage) -> Held:
    """What a stage holds, from shapes, those of networks in files included.

    Raises:
        CheckpointError: If a table of classes that a discriminator begins with is
            missing.
    """
    return _held(job, stage, *_shapes(job, stage))


def _shapes(job: Job, stage: TrainStage):
    """(method, its first state, its frozen parameters) of a stage, as shapes."""
    precision = stage.precision
    student, process = _network(before.spec(job, stage), precision)
    nets = {"student": student}
    if "teacher" in stage.init:
        nets["teacher"], _ = _network(before.origin(job, stage), precision)
    batch_size = stage.train.batch_size
    method, optim = build.make_method(stage, nets, process, batch_size)
    key = jax.random.key(0)
    # A student that begins elsewhere may be smaller than the teacher.
    given = {r: jax.eval_shape(nets[r].init, key) for r in nets if r in stage.init}
    state = jax.eval_shape(lambda given: init_state(method, optim, given, key), given)
    frozen = {role: given[role] for role in method.frozen if role in given}
    pretrained = {role: found.shapes for role, found in method.pretrained.items()}
    return method, state, frozen | pretrained | student.reads


def _layout(job: Job, stage: TrainStage) -> Layout:
    mesh = parallel.student_mesh(job.mesh, before.num_students(job, stage))
    return layout.of(stage.train.layout, mesh)


def _held(job: Job, stage: TrainStage, method, state, frozen) -> Held:
    lies = _layout(job, stage)

    def gradients(phase):
        moving = [
            split(state.nets[role].params, method.trainable.get(role))[0]
            for role in phase.trains
        ]
        return _bytes(moving)

    return Held(
        state=lies.bytes_of_device(state),
        gradients=max(gradients(phase) for phase in method.phases),
        frozen=_bytes(frozen),
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


def _bytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _train(job, stage: TrainStage, facts, needs: Needs) -> str:
    train = stage.train
    num = before.num_students(job, stage)
    mesh = parallel.student_mesh(job.mesh, num)
    turns = num // mesh.shape["student"]
    local = -(-train.batch_size // mesh.shape["data"])
    micro = -(-local // train.num_microbatches)
    steps = stage.settings.get("num_steps")
    to = f" -> {steps} steps" if steps else ""
    if num > 1:
        to += f", {num} students of {facts['params'] / 1e6:.2f} M parameters"
        to += f" ({turns} on a device in turn)" if turns > 1 else ""
    images = num * train.batch_size
    line = (
        f"  {stage.name}: {stage.method.name}{to},"
        f" {train.num_steps} x {train.batch_size} images,"
    )
    if needs.cost is None:
        # The student's passes alone: forward, and twice that backward.
        flops = 3 * facts["flops"] * images * train.num_steps
        return f"{line} at least {flops:.2e} FLOP"
    flops = 2 * needs.cost.macs(train.num_steps) * images
    # Of several students on a device all states are there, and one is at work.
    each = needs.held.state + (
        needs.held.frozen if job.split(stage.init.get("teacher", "")) else 0
    )
    memory = sum(needs.held) + (turns - 1) * each + micro * needs.cost.kept
    state = f"{_size(turns * needs.held.state)} of it state"
    if (parts := _layout(job, stage).num_parts) > 1:
        state += f", a part of {_size(turns * needs.saved)} on {parts}"
    return f"{line} {flops:.2e} FLOP, about {_size(memory)} a device, {state}"


def _encoder(job: Job, stage: AutoencoderStage) -> tuple[str, int]:
    """(line, bytes on disk) of a stage that trains an autoencoder."""
    made, train = autoencoder.plan(job, stage), stage.train
    first = functools.partial(init_state, made.method, made.optim, {})
    state = jax.eval_shape(first, jax.random.key(0))
    frozen = {role: found.shapes for role, found in made.method.pretrained.items()}
    part = max(train.batch_size // train.num_microbatches, 1)
    costs = cost.of_method(made.method, state, frozen, batch_size=part)
    flops = 2 * costs.macs(train.num_steps) * train.batch_size
    lies = layout.of(train.layout, job.mesh)
    local = -(-part // job.mesh.shape["data"])
    memory = lies.bytes_of_device(state) + _bytes(frozen) + local * costs.kept
    params = sum(x.size for x in jax.tree.leaves(state.nets["student"].params))
    height, width, _ = job.recipe.space.pixel_shape
    factor, module = made.module.factor, made.module
    line = (
        f"  {stage.name}: {stage.method.name}, {params / 1e6:.2f} M parameters,"
        f" latents {height // factor}x{width // factor}x{module.latent_channels},"
        f" {train.num_steps} x {train.batch_size} images, {flops:.2e} FLOP, about"
        f" {_size(memory)} a device"
    )
    return line, (train.keep + 3) * _bytes(state)


def _figures(job: Job, stage: TrainStage, spec: Spec, facts) -> list[str]:
    """The images of all quick figures of a stage, and the network's work for them."""
    train = stage.train
    if not train.figure_every or (job.only is not None and job.split(stage.name)):
        return []
    times = -(-train.num_steps // train.figure_every)
    flops = times * train.figure_images * spec.make_sampler().nfe * facts["flops"]
    average = results.average_of_figures(train) or "params"
    return [
        f"    quick figures: {times} of {train.figure_images} images of {average},"
        f" {','.join(train.figure_metrics)} on {compared.options_of(job).features},"
        f" {flops:.2e} FLOP"
    ]


def _pairs(job, stage: PairsStage, facts):
    num = stage.num_pairs + stage.num_held_out
    space = job.recipe.space
    size = pair_files.disk_need(num, space.shape, space.kept)
    sampler = build.spec_of(stage, before.origin(job, stage)).make_sampler()
    flops = facts["flops"] * sampler.nfe * num
    line = (
        f"  {stage.name}: {stage.num_pairs} pairs, {sampler.name} with"
        f" {sampler.nfe} evaluations, {flops:.2e} FLOP, {_size(size)} on disk"
    )
    return [line], size


def _evaluate(job: Job, stage: EvaluateStage) -> str:
    """The images of every model, and the network's work for them."""
    options, flops = stage.options, 0.0
    num = options.num_images * options.seeds
    stages = {s.name: s for s in job.stages if s.kind == "train"}
    for name in evaluate.listed(job, stage.models):
        source, _, steps = name.partition("@")
        found = job.recipe.spec
        if source in stages:
            found = before.spec(job, stages[source])
        changes = {"sampler": {"num_steps": int(steps)}} if steps else {}
        nfe = found.changed(changes).make_sampler().nfe
        flops += num * nfe * _model_facts(found)["flops"]
    models = ", ".join(stage.models)
    several = f", {options.seeds} seeds," if options.seeds > 1 else ""
    return (
        f"  {stage.name}: {options.num_images} images{several} each of {models},"
        f" {flops:.2e} FLOP"
    )


def _model_facts(spec: Spec) -> dict[str, float | int]:
    """`_facts_of` a spec, whatever it says beside the network."""
    # Teachers and students often differ in nothing else, and dropout counts nowhere.
    return _facts_of(spec.defining().changed({"network": {"dropout": 0.0}}))


@functools.lru_cache
def _facts_of(spec: Spec) -> dict[str, float | int]:
    """Parameters, and FLOPs of a forward pass of one image."""
    net, _ = interop.build(spec)
    forward, inputs = measure.forward(net)
    return {
        "params": sum(x.size for x in jax.tree.leaves(inputs[0])),
        "flops": 2.0 * measure.macs_of(forward.jaxpr),
    }


def _size(num_bytes: float | int) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    raise AssertionError
