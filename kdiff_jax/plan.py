"""What a recipe would do and need, from shapes alone: nothing is computed."""

import functools
import json
from typing import NamedTuple

import jax
import jax.extend
import numpy as np

from kdiff_jax import build, interop, samplers
from kdiff_jax.build import Stage
from kdiff_jax.data import pairs as pair_files
from kdiff_jax.errors import CheckpointError
from kdiff_jax.stages import Job, before, evaluate, results, students
from kdiff_jax.train import measure, parallel
from kdiff_jax.train.step import init_state, split


class Held(NamedTuple):
    """Bytes that a training stage holds on every device, beside activations.

    Attributes:
        state: Of all trained roles: parameters, optimizer state and moving average;
            and the carry. Also what a checkpoint takes.
        gradients: Of the phase that has most of them.
        frozen: Networks that only give: the teacher, and those that the method brings.
    """

    state: int
    gradients: int
    frozen: int


def text(job: Job) -> str:
    """Stages, shapes, parameters, FLOPs, memory per device and disk, as lines."""
    students.check(job)
    results.check(job)
    facts = _model_facts(job.config["model"])
    lines = [
        f"config {job.config['name']}, workdir {job.workdir}",
        f"devices: {job.mesh.size} x {jax.devices()[0].device_kind}",
        f"model: {job.config['model']['network']['name']},"
        f" {facts['params'] / 1e6:.2f} M parameters, images"
        f" {'x'.join(map(str, job.config['model']['image_shape']))},"
        f" {facts['flops'] / 1e9:.2f} GFLOP a forward pass of one image",
        "stages:",
    ]
    disk, known = 0, {}
    for stage in job.stages:
        if stage.kind == "train":
            # Rounds differ in their lengths alone, and hold the same.
            sections = [stage.config.get(key) for key in ("method", "optim", "roles")]
            key = json.dumps([before.spec(job, stage), *sections])
            if key not in known:
                known[key] = _held_or_why(job, stage)
            holds, why = known[key]
            own = _model_facts(before.spec(job, stage))
            lines += [_train(job, stage, own, holds), *why]
            # Beside the newest: one that is good, the next, and one being written.
            kept = build.train_options(job.config, stage)["keep"] + 3
            disk += kept * holds.state * before.num_students(job, stage)
        elif stage.kind == "pairs":
            more, size = _pairs(job, stage, facts)
            lines += more
            disk += size
        else:
            lines.append(_evaluate(job, stage))
    lines.append(f"disk: {_size(disk)} at most, checkpoints and pairs together")
    return "\n".join(lines)


def _held_or_why(job: Job, stage: Stage) -> tuple[Held, list[str]]:
    """What is held, or nothing and a line that says which file it would take."""
    try:
        return held(job, stage), []
    except CheckpointError as error:
        return Held(0, 0, 0), [
            f"    memory and disk of its networks not counted: {error}"
        ]


def held(job: Job, stage: Stage) -> Held:
    """From shapes; files are read of networks that the method brings, if any.

    Raises:
        CheckpointError: If such a file is missing, or of another network.
    """
    student, process = interop.build(before.spec(job, stage))
    nets = {"student": student}
    if "teacher" in stage.init:
        nets["teacher"], _ = interop.build(before.origin(job, stage))
    batch_size = build.train_options(job.config, stage)["batch_size"]
    method, optim = build.make_method(stage, nets, process, batch_size)
    key = jax.random.key(0)
    given = {r: jax.eval_shape(nets[r].init, key) for r in nets if r == "teacher"}
    state = jax.eval_shape(lambda given: init_state(method, optim, given, key), given)

    def gradients(phase):
        moving = [
            split(state.nets[role].params, method.trainable.get(role))[0]
            for role in phase.trains
        ]
        return _bytes(moving)

    frozen = [given[role] for role in method.frozen if role in given]
    return Held(
        state=_bytes(state),
        gradients=max(gradients(phase) for phase in method.phases),
        frozen=_bytes(frozen) + _bytes(dict(method.brings)),
    )


def _bytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _train(job, stage: Stage, facts, holds: Held) -> str:
    options = build.train_options(job.config, stage)
    num = before.num_students(job, stage)
    mesh = parallel.student_mesh(job.mesh, num)
    turns = num // mesh.shape["student"]
    local = -(-options["batch_size"] // mesh.shape["data"])
    micro = -(-local // options["num_microbatches"])
    # Forward, and twice that for the backward pass; PD's teacher steps twice.
    passes = 3 + (2 if stage.config["method"]["name"] == "progressive" else 0)
    flops = passes * facts["flops"] * options["batch_size"] * options["num_steps"]
    # The activations are those of the student alone. Of several on a device all states
    # are there, and one is at work.
    each = holds.state + (
        holds.frozen if job.split(stage.init.get("teacher", "")) else 0
    )
    memory = sum(holds) + (turns - 1) * each + micro * facts["activations"]
    steps = stage.config.get("settings", {}).get("num_steps")
    to = f" -> {steps} steps" if steps else ""
    if num > 1:
        flops *= num
        to += f", {num} students of {facts['params'] / 1e6:.2f} M parameters"
        to += f" ({turns} on a device in turn)" if turns > 1 else ""
    return (
        f"  {stage.name}: {stage.config['method']['name']}{to},"
        f" {options['num_steps']} x {options['batch_size']} images,"
        f" at least {flops:.2e} FLOP, about {_size(memory)} a device"
    )


def _pairs(job, stage: Stage, facts):
    config = stage.config
    shape = tuple(job.config["model"]["image_shape"])
    size = pair_files.disk_need(config["num_pairs"] + config["num_held_out"], shape)
    sampler = _sampler(job.config["model"], config.get("sampler"))
    num = config["num_pairs"] + config["num_held_out"]
    flops = facts["flops"] * sampler.nfe * num
    line = (
        f"  {stage.name}: {config['num_pairs']} pairs, {sampler.name} with"
        f" {sampler.nfe} evaluations, {flops:.2e} FLOP, {_size(size)} on disk"
    )
    return [line], size


def _evaluate(job: Job, stage: Stage) -> str:
    """The images of every model, and the network's work for them."""
    options, flops = build.evaluate_options(job.config, stage), 0.0
    stages = {s.name: s for s in job.stages}
    for name in evaluate.listed(job, options["models"]):
        source, _, steps = name.partition("@")
        found, override = dict(job.config["model"]), {}
        if source in stages:
            found = before.spec(job, stages[source])
            override = stages[source].config.get("sampler") or {}
        sampler = {**(override or found["sampler"])}
        sampler |= {"num_steps": int(steps)} if steps else {}
        nfe = _sampler(found, sampler).nfe
        flops += options["num_images"] * nfe * _model_facts(found)["flops"]
    models = ", ".join(options["models"])
    return (
        f"  {stage.name}: {options['num_images']} images each of {models},"
        f" {flops:.2e} FLOP"
    )


def _sampler(spec, override):
    _, process = interop.build(spec)
    return samplers.make(process=process, **(override or spec["sampler"]))


def _model_facts(spec) -> dict[str, float | int]:
    """`_facts_of` a spec, whatever it says beside the network."""
    shape = ("network", "precondition", "process", "image_shape", "num_classes")
    known = {k: spec[k] for k in (*shape, "augment_dim") if k in spec}
    # Teachers and students often differ in nothing else, and dropout counts nowhere.
    known["network"] = {**known["network"], "dropout": 0.0}
    return _facts_of(json.dumps(known))


@functools.lru_cache
def _facts_of(spec: str) -> dict[str, float | int]:
    """Parameters, FLOPs of a forward pass and bytes kept for the backward pass."""
    net, _ = interop.build(json.loads(spec))
    forward, inputs = measure.forward(net)
    return {
        "params": sum(x.size for x in jax.tree.leaves(inputs[0])),
        "flops": 2.0 * measure.macs_of(forward.jaxpr),
        "activations": _kept(forward, *inputs),
    }


def _kept(forward, params, x, t, y) -> int:
    """Bytes that the backward pass of one image keeps beside the parameters."""
    apply = jax.extend.core.jaxpr_as_fun(forward)

    def backward(params, x, t, y):
        return jax.vjp(lambda p: apply(*jax.tree.leaves(p), x, t, y), params)[1]

    leaves = jax.tree.leaves(jax.eval_shape(backward, params, x, t, y))
    total = sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in leaves)
    return max(total - _bytes(params), 0)


def _size(num_bytes: float | int) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    raise AssertionError
