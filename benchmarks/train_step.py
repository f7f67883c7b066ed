"""What parts of a train step cost, as ratios in one run.

    python benchmarks/train_step.py --config=configs/digits_progressive.py

Prints one JSON line per variant: seconds a step (median), and its ratio to the first.
The variants: teacher training with the data on the device and sent by the host, with
gradient accumulation, several steps in one dispatch, and a step of distillation. The
figure that stands against peers is images/s of a whole stage, in its metrics.jsonl.
"""

import dataclasses
import json
import statistics
import time

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from kdiff_jax import build, command, domain, recipe
from kdiff_jax.method import Numbers
from kdiff_jax.report import environment
from kdiff_jax.stages import roles, students
from kdiff_jax.train import parallel
from kdiff_jax.train.loop import Programs
from kdiff_jax.train.state import init_state

CONFIG = config_flags.DEFINE_config_file("config")
STEPS = flags.DEFINE_integer("steps", 30, "Timed steps a variant, after two warm ones.")
DISPATCH = flags.DEFINE_integer("dispatch", 0, "Steps in one dispatch; 0: left out.")


def main():
    config = build.plain(CONFIG.value)
    job = recipe.make_job(config, "unused")
    stage = next(s for s in job.stages if s.name == "teacher")
    assert stage.kind == "train"
    batch_size = stage.train.batch_size
    source = build.load_images(job.recipe)
    print(json.dumps({"versions": environment.versions()} | environment.hardware()))

    def measure(name, stage, *, on_device=True, num_microbatches=1, dispatch=1):
        train = stage.train._replace(num_microbatches=num_microbatches)
        one = dataclasses.replace(stage, train=train, init={})
        found = roles.find(job, one)
        nets, process, spec = found.nets, found.process, found.spec
        nets["teacher"] = nets["student"]
        networks = build.Networks(nets, process, (spec,))
        method, optim, programs = build.program(
            {}, job.recipe, one, networks, mesh=job.mesh
        )
        assert isinstance(programs, Programs)
        given = {"teacher": nets["student"].init(jax.random.key(0))}
        state = parallel.by_student(
            init_state(method, optim, given, jax.random.key(1)), job.mesh
        )
        frozen = {role: given[role] for role in method.frozen}
        many = students.find(job, one, process, None)
        fed = source if on_device else source._replace(in_memory=None)
        data, batches = many.feed(job, one, method, fed, batch_size)
        frozen = parallel.replicate({**frozen, **data}, job.mesh)
        share = domain.whole(spec.num_classes, (process.t_min, process.t_max))
        numbers = Numbers(share, np.int32(1000), method.settings)
        numbers = parallel.by_student(many.numbers(process, method, numbers), job.mesh)
        root = parallel.by_student(many.root_keys(0), job.mesh)
        seconds = []
        for i in range(STEPS.value + 2):
            began = time.perf_counter()
            parts = [batches[i * dispatch + k] for k in range(dispatch)]
            if dispatch == 1:
                batch = parallel.shard_batch(parts[0], job.mesh)
            else:
                stacked = jax.tree.map(lambda *x: np.stack(x), *parts)
                batch = parallel.shard_batch(stacked, job.mesh, axis=1)
            state, metrics = programs(0, dispatch)(state, frozen, numbers, batch, root)
            jax.block_until_ready(metrics)
            seconds.append((time.perf_counter() - began) / dispatch)
        median = statistics.median(seconds[2:])
        first.setdefault("seconds", median)
        row = {
            "variant": name,
            "seconds": round(median, 5),
            "ratio": round(median / first["seconds"], 3),
            "images_per_second": round(batch_size / median, 1),
        }
        print(json.dumps(row), flush=True)

    first: dict[str, float] = {}
    measure("denoise, data on the device", stage)
    measure("denoise, batches from the host", stage, on_device=False)
    measure("denoise, 4 microbatches", stage, num_microbatches=4)
    if DISPATCH.value:
        measure(
            f"denoise, {DISPATCH.value} in a dispatch", stage, dispatch=DISPATCH.value
        )
    rounds = [s for s in job.stages if s.name.startswith("progressive")]
    if rounds:
        measure("progressive", rounds[0])


if __name__ == "__main__":
    command.run(main)
