"""Memory and work of a recipe's steps, compiled for a TPU that is not there.

    pip install libtpu
    python benchmarks/aot_memory.py --config=configs/sd15_dmd2.py --stage=matching \
        --topology=v5e:4x4 --config.stages.matching.train.batch_size=16

For each set of due phases one JSON line: bytes per device of the arguments, of the
temporaries and at the peak, FLOP per device, the time that the compiler estimates, and
seconds to lower and compile. Nothing is run, and no file of a teacher is needed: all
is shapes. The peak is what must fit into the memory of a chip (v5e 16 GB, v4 and v6e
32 GB, v5p 95 GB).
"""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import config_flags

from kdiff_jax import build, command, domain, interop, recipe
from kdiff_jax.method import Numbers
from kdiff_jax.report import environment
from kdiff_jax.stages import before, needs
from kdiff_jax.train import parallel

CONFIG = config_flags.DEFINE_config_file("config")
STAGE = flags.DEFINE_string("stage", "student", "Of the recipe.")
TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "As libtpu names it.")
STEPS = flags.DEFINE_list("steps", ["0", "1"], "One of each set of due phases.")


def main():
    jax.config.update("jax_platforms", "cpu")
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=TOPOLOGY.value
    )
    plain = build.plain(CONFIG.value)
    plain["order"] = [STAGE.value]  # others may not split over so many devices
    job = recipe.make_job(plain, "unused", devices=topology.devices)
    stage = next(s for s in job.stages if s.name == STAGE.value)
    assert stage.kind == "train"
    names = ("student", "teacher") if "teacher" in stage.init else ("student",)
    specs = (before.spec(job, stage), before.origin(job, stage))[: len(names)]
    made = [interop.build(spec, stage.precision) for spec in specs]
    networks = build.Networks(
        dict(zip(names, (net for net, _ in made), strict=True)), made[0][1], specs
    )
    mesh = parallel.student_mesh(job.mesh, before.num_students(job, stage))
    program = build.program({}, job.recipe, stage, networks, mesh=mesh)
    _, state, frozen = needs.shapes(job, stage)
    print(json.dumps({"versions": environment.versions(), "recipe": job.recipe.name}))
    for step in map(int, STEPS.value):
        args = arguments(job, stage, program, mesh, state, frozen)
        phases = [p.name for p in program.steps._due(step)]
        print(
            json.dumps({"phases": phases} | measured(program, step, args)), flush=True
        )


def arguments(job, stage, program, mesh, state, frozen):
    """Shapes of what a step is given, where it lies."""
    whole, student = NamedSharding(mesh, P()), NamedSharding(mesh, P("student"))

    def at(place, tree):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree
        )

    method, size = program.method, stage.train.batch_size
    settings = {k: np.int32(v) for k, v in stage.settings.items()}
    numbers = Numbers(
        domain.whole(job.recipe.num_classes, (0.0, 1.0)),
        jnp.int32(1),
        {**method.settings, **settings},
    )
    numbers = jax.tree.map(lambda x: np.asarray(x)[None], numbers)
    space = job.recipe.space
    shape = (*space.shape[:2], space.moments) if job.recipe.latents else None
    batch = {
        "x0": jax.ShapeDtypeStruct(
            (1, size, *(shape or space.pixel_shape)),
            jnp.float16 if shape else jnp.uint8,
        ),
        "y": jax.ShapeDtypeStruct((1, size), jnp.int32),
    }
    if "z" in method.batch_keys:
        batch["z"] = jax.ShapeDtypeStruct((1, size, *space.shape), jnp.float16)
    keys = jax.eval_shape(lambda: jax.random.key(0)[None])
    return (
        parallel.abstract(state, mesh, program.steps.layout),
        at(whole, frozen),
        at(student, numbers),
        at(NamedSharding(mesh, P("student", "data")), batch),
        at(student, keys),
        np.int32(0),
    )


def measured(program, step, args):
    """What the compiler says of one step."""
    began = time.monotonic()
    lowered = program.steps.compiled(step, 1, args[0]).lower(*args)
    middle = time.monotonic()
    compiled = lowered.compile()
    end = time.monotonic()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return dict(
        arguments_gb=memory.argument_size_in_bytes / 1e9,
        temporaries_gb=memory.temp_size_in_bytes / 1e9,
        peak_gb=getattr(memory, "peak_memory_in_bytes", 0) / 1e9,
        tflop=cost.get("flops", 0) / 1e12,
        estimated_seconds=cost.get("optimal_seconds"),
        lower_seconds=round(middle - began, 1),
        compile_seconds=round(end - middle, 1),
    )


if __name__ == "__main__":
    command.run(main)
