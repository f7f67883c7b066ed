"""What a recipe's programs would need of devices that are not here, by their compiler.

Every program is compiled as it would run; nothing is computed, and no weights are read.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kdiff_jax import build
from kdiff_jax.build import (
    AutoencoderStage,
    EvaluateStage,
    LatentsStage,
    PairsStage,
    Stage,
    TrainStage,
)
from kdiff_jax.chips import Chip
from kdiff_jax.errors import CheckpointError
from kdiff_jax.memory import size_text
from kdiff_jax.report.progress import duration
from kdiff_jax.stages import Job, before, evaluate, needs, programs
from kdiff_jax.topology import Found
from kdiff_jax.train import compiled
from kdiff_jax.train.compiled import Bound, DoesNotFit, Facts

NOTE = """\
Arguments are state, weights and batch. A time is the least: that of the busiest of
arithmetic, memory and links, each at the chip's peak; memory as if nothing stayed on
the chip between two kernels, and not at all of a GPU, whose compiler does not count.
Work is the compiler's count or, where that has one turn of a loop alone, ours of matrix
products; bytes are then taken to grow with it. Collectives in a loop count once."""


class Told(NamedTuple):
    """What is said of one program of a stage.

    Attributes:
        program: What it is.
        share: Share of the stage's steps that are its.
        num_images: Images of a call.
        facts: What the compiler says; None where it does not fit.
        bound: Its least time; None where it does not fit, or the chip is not known.
        why: Why it does not fit, or "".
    """

    program: str
    share: float
    num_images: int
    facts: Facts | None
    bound: Bound | None
    why: str = ""


def page(job: Job, on: Found, only: str | None = None) -> Iterator[str]:
    """What is said of all stages, line by line: a large program takes minutes.

    Args:
        job: A job on the devices of the topology.
        on: The topology.
        only: Name of the one stage that is asked about; None for all.
    """
    chip, what = on.chip, f"{job.mesh.size} x {on.devices[0].device_kind}"
    if chip is not None:
        what += (
            f" of {size_text(chip.memory)}, {chip.peak / 1e12:.0f} TFLOP/s,"
            f" {chip.bandwidth / 1e9:,.0f} GB/s"
        )
    yield f"config {job.recipe.name} on {on.name}: {what}"
    for stage in job.stages:
        if only and stage.name != only:
            continue
        if isinstance(stage, AutoencoderStage | LatentsStage):
            yield f"  {stage.name}: not compiled; --dryrun counts what it needs"
            continue
        yield f"  {stage.name}:"
        every = []
        try:
            for told in of_stage(job, on, stage):
                every.append(told)
                yield _line(told, chip)
        except CheckpointError as error:
            yield f"    not compiled: {error}"
        else:
            if isinstance(stage, TrainStage):
                yield from _in_all(job, stage, every, chip)
    yield NOTE


def of_stage(job: Job, on: Found, stage: Stage) -> Iterator[Told]:
    """What is said of each program of a stage, as it is compiled.

    Raises:
        CheckpointError: If a file is missing whose shapes a method needs.
    """
    size, made = _programs(job, stage)
    float32 = getattr(stage, "precision", "float32") == "float32"
    for program in made:
        try:
            found = compiled.with_loops(compiled.facts(program.lower), program.flops)
        except DoesNotFit as error:
            yield Told(program.name, program.share, size, None, None, str(error))
            continue
        mesh, least = job.mesh, None
        if isinstance(stage, TrainStage):
            mesh = needs.mesh_of(job, stage)
        if on.chip is not None:
            num = mesh.shape["data"]
            least = compiled.bound(found, on.chip, num_devices=num, float32=float32)
        yield Told(program.name, program.share, size, found, least)


def _programs(job: Job, stage: Stage):
    """(images of a call, the programs) of a stage that trains or makes images."""
    if isinstance(stage, TrainStage):
        groups = needs.mesh_of(job, stage).shape["student"]
        return stage.train.batch_size * groups, programs.of_training(job, stage)
    if isinstance(stage, PairsStage):
        spec = build.spec_of(stage, before.origin(job, stage))
        size = stage.batch_size
        made = programs.of_sampling(job, spec, size, stage.precision, name="teacher")
        return size, [made]
    assert isinstance(stage, EvaluateStage)
    size, names = stage.options.batch_size, {}
    for name in evaluate.listed(job, stage.models):  # rounds often differ in nothing
        names.setdefault(before.spec_of_model(job, name), []).append(name)
    return size, [
        programs.of_sampling(job, spec, size, stage.precision, name=", ".join(alike))
        for spec, alike in names.items()
    ]


def _line(told: Told, chip: Chip | None) -> str:
    """What is said of one program."""
    of = f" ({told.share:.0%} of the steps)" if told.share < 1 else ""
    if told.facts is None:
        return f"    {told.program}{of}: does not fit: {told.why}"
    facts = told.facts
    text = (
        f"    {told.program}{of}: {size_text(facts.peak)} a device at the peak,"
        f" {size_text(facts.arguments)} of it arguments; {facts.flops:.3g} FLOP"
    )
    if facts.bytes:
        text += f", {size_text(facts.bytes)} read and written"
    for kind, one in sorted(facts.collectives.items()):
        text += f", {one.num} {kind} of {size_text(one.bytes)}"
    if told.bound is not None:
        ms = {name: 1e3 * x for name, x in told.bound.parts.items()}
        parts = ", ".join(f"{name} {x:.3g}" for name, x in ms.items())
        text += f"; at least {1e3 * told.bound.seconds:.3g} ms ({parts})"
    if chip is not None and facts.peak > chip.memory:
        text += "; does not fit"
    lower, compiling = facts.seconds
    return f"{text}; compiled in {lower + compiling:.0f} s"


def _in_all(
    job: Job, stage: TrainStage, every: list[Told], chip: Chip | None
) -> Iterator[str]:
    """The whole stage: how long it takes, whether it fits, and what would help."""
    if not every or chip is None:
        return
    if any(told.facts is None or told.facts.peak > chip.memory for told in every):
        ways = "; ".join(_ways(job, stage, chip)) or "more devices"
        yield f"    to make it fit: {ways}"
        if any(told.facts is None for told in every):
            return
    bounds = [told.bound for told in every if told.bound is not None]
    # Students of one group take turns, a call of the program for each.
    turns = (
        before.num_students(job, stage) // needs.mesh_of(job, stage).shape["student"]
    )
    call = sum(t.share * t.bound.seconds for t in every if t.bound is not None)
    mean = turns * call
    total = mean * stage.train.num_steps
    most = max(bounds, key=lambda bound: bound.seconds).by
    yield (
        f"    in all: at least {1e3 * mean:.3g} ms a step,"
        f" {every[0].num_images / call:,.0f} images/s, {duration(total)} for"
        f" {stage.train.num_steps} steps; bound by {most}"
    )
    peak = max(t.facts.peak for t in every if t.facts is not None)
    each = stage.train.batch_size // needs.mesh_of(job, stage).shape["data"]
    fixed = min(t.facts.arguments for t in every if t.facts is not None)
    if fixed < peak <= chip.memory:
        largest = int(each * (chip.memory - fixed) / (peak - fixed))
        yield (
            f"    fits, with {size_text(chip.memory - peak)} to spare: about {largest}"
            f" images a device in place of {each}, if temporaries grow with them"
        )


def _ways(job: Job, stage: TrainStage, chip: Chip) -> list[str]:
    """What would lower a stage's memory and is not set yet, with our own count."""
    place, found = job.section(stage.name), needs.needs(job, stage)
    ways, num = [], needs.mesh_of(job, stage).shape["data"]
    if stage.precision == "float32":
        ways.append(f"{place}.precision=bfloat16")
    if before.spec(job, stage).remat is False:
        ways.append("--config.model.network.remat=True")
    if stage.train.layout != "zero1" and num > 1:
        sizes = {name: size_text(sum(held)) for name, held in found.layouts.items()}
        ways.append(
            f"{place}.train.layout=zero1 ({sizes['zero1']} a device beside activations,"
            f" not {sizes['replicated']})"
        )
    local = stage.train.batch_size // num
    parts = [n for n in range(1, local + 1) if local % n == 0]
    room = chip.memory - sum(found.held)
    fit = [n for n in parts if local // n * found.cost.kept <= room]
    if fit and fit[0] > stage.train.num_microbatches:
        ways.append(f"{place}.train.num_microbatches={fit[0]}")
    return ways
