"""What a train step costs beyond its own forward and backward passes.

    python benchmarks/step_overhead.py --config=configs/digits_dmd2.py --stage=student

A step is one program: the inputs, what all phases share (`prepare`), and of each phase
that is due its gradient, optimizer and moving average. With `log`, the summing of its
metrics, it is timed against the sum of `prepare` and the gradients, each a program of
its own, in turns with it. One JSON line for each set of due phases: medians in
milliseconds, and (step + log) / sum - 1.
"""

import dataclasses
import json
import statistics
import time

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from kdiff_jax import build, command, domain, recipe, rng
from kdiff_jax.method import Numbers
from kdiff_jax.report import environment
from kdiff_jax.stages import roles, students
from kdiff_jax.train import inputs, parallel
from kdiff_jax.train.loop import Programs
from kdiff_jax.train.means import Means
from kdiff_jax.train.state import init_state, join, split, without_axis
from kdiff_jax.train.step import context_of, due

CONFIG = config_flags.DEFINE_config_file("config")
STAGE = flags.DEFINE_string("stage", "student", "Of the recipe.")
STEPS = flags.DEFINE_integer("steps", 20, "Timed steps, after two warm ones.")


def main():
    config = build.plain(CONFIG.value)
    job = recipe.make_job(config, "unused", devices=jax.devices()[:1])
    stage = next(s for s in job.stages if s.name == STAGE.value)
    assert stage.kind == "train"
    one = dataclasses.replace(stage, init={})
    found = roles.find(job, one)
    nets, process, spec = found.nets, found.process, found.spec
    nets["teacher"] = nets["student"]
    networks = build.Networks(nets, process, (spec,))
    method, optim, programs = build.program(
        {}, job.recipe, one, networks, mesh=job.mesh
    )
    assert isinstance(programs, Programs)
    batch_size = stage.train.batch_size
    given = {"teacher": nets["teacher"].init(jax.random.key(0))}
    files = {role: found.read() for role, found in method.pretrained.items()}
    frozen = {"teacher": given["teacher"], **files}
    many = students.find(job, one, process, None)
    share = domain.whole(spec.num_classes, (process.t_min, process.t_max))
    numbers = Numbers(share, np.int32(1000), method.settings)
    of_one = without_axis(many.numbers(process, method, numbers))
    source = build.load_images(job.recipe)
    data, batches = many.feed(job, one, method, source, batch_size)
    fed = parallel.replicate({**frozen, **data}, job.mesh)
    root = jax.random.key(0)
    numbers, roots = (
        parallel.by_student(x, job.mesh)
        for x in (many.numbers(process, method, numbers), root[None])
    )
    raw = parallel.shard_batch(batches[0], job.mesh)
    print(json.dumps({"versions": environment.versions()} | environment.hardware()))

    def fresh():
        state = init_state(method, optim, given, jax.random.key(1))
        return parallel.by_student(state, job.mesh)

    def context(state, frozen, batch, keys):
        return context_of(without_axis(state), frozen, of_one, batch, keys)

    feed = inputs.make()  # without flips, which cost next to nothing

    @jax.jit
    def prepare(state, frozen, raw):
        keys = rng.example_keys(root, state.step[0], np.arange(batch_size))
        batch = feed(frozen, without_axis(raw[0]), keys)
        return method.prepare(context(state, frozen, batch, keys)), keys

    def gradient(phase):
        @jax.jit
        def program(state, frozen, batch, keys):
            ctx = context(state, frozen, batch, keys)
            parts = {
                r: split(ctx.nets[r], method.trainable.get(r)) for r in phase.trains
            }

            def loss(moving):
                whole = {r: join(moving[r], parts[r][1]) for r in moving}
                return phase.loss(whole, ctx)

            moving = {role: part for role, (part, _) in parts.items()}
            return jax.value_and_grad(loss, has_aux=True)(moving)

        return program

    gradients = {phase.name: gradient(phase) for phase in method.phases}
    still = fresh()
    done = set()
    for step in range(64):
        names = tuple(p.name for p in due(method.phases, step))
        if names in done:
            continue
        done.add(names)
        state, means = fresh(), Means()
        seconds = {"step": [], "log": [], "prepare": []} | {n: [] for n in names}

        def timed(name, program, *args, seconds=seconds):
            began = time.perf_counter()
            result = jax.block_until_ready(program(*args))
            seconds[name].append(time.perf_counter() - began)
            return result

        for _ in range(STEPS.value + 2):
            state, sums = timed("step", programs(step), state, fed, numbers, raw, roots)
            timed("log", means.add, sums, 1)
            batch, keys = timed("prepare", prepare, still, fed, raw)
            for name in names:
                timed(name, gradients[name], still, fed, batch, keys)
        medians = {
            k: round(1e3 * statistics.median(v[2:]), 2) for k, v in seconds.items()
        }
        whole = medians["step"] + medians["log"]
        parts = sum(v for k, v in medians.items() if k not in ("step", "log"))
        row = {"phases": names, **medians, "overhead": whole / parts - 1}
        print(json.dumps(row | {"overhead": round(row["overhead"], 3)}), flush=True)


if __name__ == "__main__":
    command.run(main)
