"""What the programs of several steps a dispatch cost before they run.

    python benchmarks/program_cost.py --config=configs/digits_gdd.py --stage=student

For each set of due phases: seconds to trace, lower and compile the program of one step,
and that of up to `dispatch` steps, where the phases are due at several in a row. Each
is measured in turn, `rounds` times, with nothing cached; medians, as JSON lines. At the
end the sum over the programs that a training run needs, to that of single steps.
"""

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
from kdiff_jax.train.state import init_state
from kdiff_jax.train.step import due

CONFIG = config_flags.DEFINE_config_file("config")
STAGE = flags.DEFINE_string("stage", "student", "Of the recipe.")
DISPATCH = flags.DEFINE_integer("dispatch", 10, "Steps of one call of the device.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.")


def main():
    jax.config.update("jax_enable_compilation_cache", False)
    config = build.plain(CONFIG.value)
    job = recipe.make_job(config, "unused", devices=jax.devices()[:1])
    stage = next(s for s in job.stages if s.name == STAGE.value)
    assert stage.kind == "train"
    own = build.TrainStage(**{**vars(stage), "init": build.Init()})
    found = roles.find(job, own)
    nets = {**found.nets, "teacher": found.nets["student"]}
    process, spec = found.process, found.spec
    networks = build.Networks(nets, process, (spec,))
    about = dict(recipe=job.recipe, stage=own, networks=networks, mesh=job.mesh)
    many = students.find(job, own, process, None)
    num_classes = spec.num_classes
    share = domain.whole(num_classes, (process.t_min, process.t_max))
    source = build.load_images(job.recipe)
    root = jax.random.key(0)
    print(json.dumps({"versions": environment.versions()} | environment.hardware()))

    def measured(step, most):
        """Seconds of each part; nets are built anew, so that nothing is cached."""
        jax.clear_caches()
        method, optim, programs = build.program({}, **about)
        given = {"teacher": nets["teacher"].init(jax.random.key(0))}
        files = {role: f.read() for role, f in method.pretrained.items()}
        numbers = Numbers(share, np.int32(1000), method.settings)
        numbers = parallel.by_student(many.numbers(process, method, numbers), job.mesh)
        data, batches = many.feed(job, own, method, source, own.train.batch_size)
        frozen = {r: given[r] for r in method.frozen if r in given}
        frozen = parallel.replicate({**frozen, **files, **data}, job.mesh)
        state = init_state(method, optim, given, jax.random.key(1))
        state = parallel.by_student(state, job.mesh)
        (part,) = batches[0]
        together = programs.together(step, most)
        if together > 1:
            part = jax.tree.map(lambda x: np.stack([x] * together), part)
        axis = 1 if together > 1 else 0
        batch = parallel.shard_batch(part, job.mesh, axis=axis)
        roots = parallel.by_student(root[None], job.mesh)
        program = programs.compiled(step, most, state)
        turn = (np.int32(0),) + (np.int32(together),) * axis
        seconds, began = [], time.perf_counter()
        stages = (
            lambda _: program.trace(state, frozen, numbers, batch, roots, *turn),
            lambda traced: traced.lower(),
            lambda lowered: lowered.compile(),
        )
        value = None
        for act in stages:
            value = act(value)
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
        return seconds, programs

    _, programs = measured(1, 1)
    method = build.program({}, **about).method
    seen, sums = set(), {"single": 0.0, "together": 0.0}
    for step in range(64):
        names = tuple(p.name for p in due(method.phases, step))
        if names in seen:
            continue
        seen.add(names)
        together = programs.together(step, DISPATCH.value)
        settings = (1, DISPATCH.value) if together > 1 else (1,)
        found = {most: [] for most in settings}
        for _ in range(ROUNDS.value):
            for most in settings:
                found[most].append(measured(step, most)[0])
        row = {"phases": names, "longest run": together}
        for most, seconds in found.items():
            medians = [
                round(statistics.median(one), 2) for one in zip(*seconds, strict=True)
            ]
            row["single" if most == 1 else "together"] = dict(
                zip(("trace", "lower", "compile"), medians, strict=True)
            )
        single = sum(row["single"].values())
        sums["single"] += single
        sums["together"] += sum(row.get("together", row["single"]).values())
        print(json.dumps(row), flush=True)
    print(json.dumps({"ratio": round(sums["together"] / sums["single"], 3)}))


if __name__ == "__main__":
    command.run(main)
