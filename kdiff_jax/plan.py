"""What a recipe would do and need, from shapes alone: nothing is computed."""

import functools

import jax

from kdiff_jax import build, interop
from kdiff_jax.build import (
    AutoencoderStage,
    EvaluateStage,
    LatentsStage,
    PairsStage,
    TrainStage,
)
from kdiff_jax.build.resolved import Recipe
from kdiff_jax.data import pairs as pair_files
from kdiff_jax.interop import Spec
from kdiff_jax.memory import size_text
from kdiff_jax.stages import (
    Job,
    autoencoder,
    before,
    compared,
    evaluate,
    results,
    students,
)
from kdiff_jax.stages.needs import (
    Needs,
    bytes_of,
    held,
    layout_of,
    memory,
    mesh_of,
    needs,
)
from kdiff_jax.train import cost, layout, measure
from kdiff_jax.train.state import init_state

__all__ = ["held", "needs", "text"]
COPIES = "encoders and tables of conditions"


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
    kinds = "checkpoints", "models", COPIES, "pairs"
    disk, known = dict.fromkeys(kinds, 0), {}
    for stage in job.stages:
        if stage.kind == "train":
            # Rounds differ in their lengths alone, and hold the same.
            spec = before.spec(job, stage)
            key = spec, stage.method, stage.optim, stage.roles, layout_of(job, stage)
            is_new = key not in known
            if is_new:
                known[key] = needs(job, stage)
            needed = known[key]
            own = _model_facts(spec)
            lines.append(_train(job, stage, own, needed))
            if is_new:
                lines += _layouts(job, stage, needed)
            lines += _figures(job, stage, spec, own)
            # Beside the newest: one that is good, the next, and one being written.
            kept, num = stage.train.keep + 3, before.num_students(job, stage)
            disk["checkpoints"] += kept * needed.saved * num
            disk["models"] += 4 * int(own["params"]) * num
            # Beside the checkpoints, and in the model folder.
            disk[COPIES] += 2 * _beside(spec)
        elif stage.kind == "pairs":
            more, size = _pairs(job, stage, facts)
            lines += more
            disk["pairs"] += size
        elif stage.kind == "autoencoder":
            line, size = _encoder(job, stage)
            lines.append(line)
            disk["checkpoints"] += size
        elif stage.kind == "latents":
            lines.append(_latents(job, stage))
        else:
            lines.append(_evaluate(job, stage))
    parts = ", ".join(
        f"{name} {size_text(size)}" for name, size in disk.items() if size
    )
    lines.append(f"disk: {size_text(sum(disk.values()))} at most: {parts}")
    return "\n".join(lines)


def _beside(spec: Spec) -> int:
    """Bytes of what a model folder has beside its network."""
    return bytes_of(spec.conditioning.shapes) + bytes_of(spec.make_space().shapes())


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
    size = bytes_of(asked.shapes)
    kind = f"texts of {asked.length} vectors" if asked.length else "vectors"
    source = recipe.table or recipe.latents
    if recipe.templates:
        source = f"{len(recipe.templates)} templates of data.templates"
    return (
        f"{asked.num} {kind} of {asked.dim} entries, {size_text(size)}, from {source}"
    )


def _train(job, stage: TrainStage, facts, needed: Needs) -> str:
    train = stage.train
    num = before.num_students(job, stage)
    mesh = mesh_of(job, stage)
    turns = num // mesh.shape["student"]
    steps = stage.round_steps
    to = f" -> {steps} steps" if steps else ""
    if num == 1 and facts["params"] != _model_facts(job.recipe.spec)["params"]:
        to += f", a student of {facts['params'] / 1e6:.2f} M parameters"
    if num > 1:
        to += f", {num} students of {facts['params'] / 1e6:.2f} M parameters"
        to += f" ({turns} on a device in turn)" if turns > 1 else ""
    images = num * train.batch_size
    line = (
        f"  {stage.name}: {stage.method.name}{to},"
        f" {train.num_steps} x {train.batch_size} images,"
    )
    flops = 2 * needed.cost.macs(train.num_steps) * images
    bytes_held = memory(job, stage, needed.cost, needed.held, mesh.shape["data"])
    state = f"{size_text(turns * needed.held.state)} of it state"
    if (parts := layout_of(job, stage).num_parts) > 1:
        state += f", a part of {size_text(turns * needed.saved)} on {parts}"
    return f"{line} {flops:.2e} FLOP, about {size_text(bytes_held)} a device, {state}"


def _layouts(job: Job, stage: TrainStage, needed: Needs) -> list[str]:
    """What `train.layout` changes of the memory of a device."""
    num = needed.num_devices
    sizes = {
        name: size_text(memory(job, stage, needed.cost, found, num))
        for name, found in needed.layouts.items()
    }
    return [
        f"    on {num} devices: {sizes['replicated']} each, with layout='zero1'"
        f" {sizes['zero1']}"
    ]


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
    total = lies.bytes_of_device(state) + bytes_of(frozen) + local * costs.kept
    params = sum(x.size for x in jax.tree.leaves(state.nets["student"].params))
    height, width, _ = job.recipe.space.pixel_shape
    factor, module = made.module.factor, made.module
    line = (
        f"  {stage.name}: {stage.method.name}, {params / 1e6:.2f} M parameters,"
        f" latents {height // factor}x{width // factor}x{module.latent_channels},"
        f" {train.num_steps} x {train.batch_size} images, {flops:.2e} FLOP, about"
        f" {size_text(total)} a device"
    )
    return line, (train.keep + 3) * bytes_of(state)


def _latents(job: Job, stage: LatentsStage) -> str:
    """How large a stage's cache will be, for each image: they are not yet counted."""
    height, width, _ = job.recipe.space.shape
    moments, views = job.recipe.space.moments, "image"
    size = 2 * height * width * moments
    if job.recipe.flips:
        views, size = "image and its mirror image", 2 * size
    return (
        f"  {stage.name}: moments {height}x{width}x{moments} of every {views},"
        f" {size_text(size + 4)} an image on disk"
    )


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
        f" {sampler.nfe} evaluations, {flops:.2e} FLOP, {size_text(size)} on disk"
    )
    return [line], size


def _evaluate(job: Job, stage: EvaluateStage) -> str:
    """The images of every model, and the network's work for them."""
    options, flops = stage.options, 0.0
    num = options.num_images * options.seeds
    for name in evaluate.listed(job, stage.models):
        found = before.spec_of_model(job, name)
        flops += num * found.make_sampler().nfe * _model_facts(found)["flops"]
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
