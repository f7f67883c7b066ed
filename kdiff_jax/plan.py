"""What a recipe would do and need, from shapes alone: nothing is computed."""

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import build, interop, samplers
from kdiff_jax.build import Stage
from kdiff_jax.data import pairs as pair_files
from kdiff_jax.stages import Job


def text(job: Job) -> str:
    """Stages, shapes, parameters, FLOPs, memory per device and disk, as lines."""
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
    disk = 0
    for stage in job.stages:
        if stage.kind == "train":
            lines += _train(job, stage, facts)
            kept = build.train_options(job.config, stage)["keep"] + 1
            disk += kept * _state_bytes(facts)
        elif stage.kind == "pairs":
            more, size = _pairs(job, stage, facts)
            lines += more
            disk += size
        else:
            num = {**job.config["evaluate"], **stage.config}["num_images"]
            models = ", ".join(stage.config["models"])
            lines.append(f"  {stage.name}: {num} images each of {models}")
    lines.append(f"disk: {_size(disk)} at most, checkpoints and pairs together")
    return "\n".join(lines)


def _train(job, stage: Stage, facts) -> list[str]:
    options = build.train_options(job.config, stage)
    local = -(-options["batch_size"] // job.mesh.shape["data"])
    micro = -(-local // options["num_microbatches"])
    # Forward, and twice that for the backward pass; PD's teacher steps twice.
    passes = 3 + (2 if stage.config["method"]["name"] == "progressive" else 0)
    flops = passes * facts["flops"] * options["batch_size"] * options["num_steps"]
    copies = 5 + (
        "teacher" in stage.init and stage.config["method"]["name"] != "denoise"
    )
    memory = copies * 4 * facts["params"] + micro * facts["activations"]
    steps = stage.config.get("settings", {}).get("num_steps")
    to = f" -> {steps} steps" if steps else ""
    return [
        f"  {stage.name}: {stage.config['method']['name']}{to},"
        f" {options['num_steps']} x {options['batch_size']} images,"
        f" {flops:.2e} FLOP, about {_size(memory)} a device"
    ]


def _pairs(job, stage: Stage, facts):
    config = stage.config
    shape = tuple(job.config["model"]["image_shape"])
    size = pair_files.disk_need(config["num_pairs"] + config["num_held_out"], shape)
    sampler = _sampler(job.config["model"], config.get("sampler"))
    flops = facts["flops"] * sampler.nfe * config["num_pairs"]
    line = (
        f"  {stage.name}: {config['num_pairs']} pairs, {sampler.name} with"
        f" {sampler.nfe} evaluations, {flops:.2e} FLOP, {_size(size)} on disk"
    )
    return [line], size


def _sampler(spec, override):
    _, process = interop.build(spec)
    return samplers.make(process=process, **(override or spec["sampler"]))


def _model_facts(spec) -> dict[str, float | int]:
    """Parameters, FLOPs of a forward pass and bytes kept for the backward pass."""
    net, _ = interop.build(spec)
    params = jax.eval_shape(net.init, jax.random.key(0))
    num = sum(x.size for x in jax.tree.leaves(params))
    x = jax.ShapeDtypeStruct((1, *spec["image_shape"]), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    y = jax.ShapeDtypeStruct((1,), jnp.int32)

    cost = jax.jit(net.apply).lower(params, x, t, y).cost_analysis() or {}
    return {
        "params": num,
        "flops": cost.get("flops", 0.0),
        "activations": _kept(net, params, x, t, y),
    }


def _kept(net, params, x, t, y) -> int:
    """Bytes that the backward pass of one image keeps beside the parameters."""

    def backward(params, x, t, y):
        return jax.vjp(lambda p: net.apply(p, x, t, y), params)[1]

    leaves = jax.tree.leaves(jax.eval_shape(backward, params, x, t, y))
    total = sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in leaves)
    own = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(params))
    return max(total - own, 0)


def _state_bytes(facts):
    return 16 * facts["params"]  # params, two moments, moving average


def _size(num_bytes: float | int) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    raise AssertionError
