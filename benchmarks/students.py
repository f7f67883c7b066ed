"""K students on one device: in turn, as the package trains them, or mapped over.

    python benchmarks/students.py --config=configs/digits_msd.py --stage=dm

Two designs of the same step, timed in turns: a program for one student, called K times
on the stacked state, and `jax.vmap` of it over the students, where a convolution
becomes a grouped one. One JSON line: medians in milliseconds for all K, and the ratio.
"""

import json
import statistics
import time

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from kdiff_jax import build, command, domain, interop, recipe, rng
from kdiff_jax.method import Numbers
from kdiff_jax.report import environment
from kdiff_jax.stages import students
from kdiff_jax.train import parallel
from kdiff_jax.train.loop import Programs
from kdiff_jax.train.state import init_state, with_axis, without_axis
from kdiff_jax.train.step import due, make_train_step

CONFIG = config_flags.DEFINE_config_file("config")
STAGE = flags.DEFINE_string("stage", "dm", "Of the recipe, with a partition.")
STEPS = flags.DEFINE_integer("steps", 10, "Timed steps, after two warm ones.")


def main():
    config = build.plain(CONFIG.value)
    job = recipe.make_job(config, "unused", devices=jax.devices()[:1])
    stage = next(s for s in job.stages if s.name == STAGE.value)
    assert stage.kind == "train"
    net, process = interop.build(job.recipe.spec)
    many = students.find(job, stage, process, None)
    batch_size, num = stage.train.batch_size, len(many.ids)
    nets = {"student": net, "teacher": net}
    method, optim = build.make_method(stage, nets, process, batch_size)
    teacher = {"teacher": net.init(jax.random.key(0))}
    roots = many.root_keys(0)
    share = domain.whole(net.num_classes, (process.t_min, process.t_max))
    numbers = many.numbers(
        process, method, Numbers(share, np.int32(1000), method.settings)
    )
    batch = random_batch(batch_size, num, net)

    def as_it_is(frozen, batch, keys):
        del frozen, keys
        return batch

    programs = Programs(
        method,
        optim,
        many.mesh,
        batch_size=batch_size,
        inputs=as_it_is,
    )
    one_step = make_train_step(method, optim, due(method.phases, 0))

    def mapped(state, frozen, numbers, batch, roots):
        def one(state, numbers, batch, root):
            keys = rng.example_keys(root, state.step, np.arange(batch_size))
            state, metrics = one_step(with_axis(state), frozen, numbers, batch, keys)
            return without_axis(state), metrics

        return jax.vmap(one)(state, numbers, batch, roots)

    def fresh():
        _, begin = many.first_states(
            lambda given, root: init_state(method, optim, given, root),
            teacher,
            set(),
            roots,
        )
        return parallel.by_student(begin(), many.mesh)

    turns = tuple({k: v[i : i + 1] for k, v in batch.items()} for i in range(num))
    designs = {
        "in_turn": (programs(0), turns),
        "mapped": (jax.jit(mapped, donate_argnums=0), batch),
    }
    seconds = {name: [] for name in designs}
    states = {name: fresh() for name in designs}
    frozen = parallel.replicate(teacher, many.mesh)
    for _ in range(STEPS.value + 2):
        for name, (program, fed) in designs.items():
            began = time.perf_counter()
            args = (states[name], frozen, numbers, fed, roots)
            states[name], _ = jax.block_until_ready(program(*args))
            seconds[name].append(time.perf_counter() - began)
    row = {name: 1e3 * statistics.median(s[2:]) for name, s in seconds.items()}
    row["mapped / in_turn"] = row["mapped"] / row["in_turn"]
    about = {"num_students": num, "versions": environment.versions()}
    print(json.dumps(about | environment.hardware() | row))


def random_batch(size: int, num: int, net):
    """{name: [num, size, ...]}, of what any method reads."""
    random = np.random.RandomState(0)
    shape = (num, size, *net.image_shape)
    labels = random.randint(0, max(net.num_classes, 1), (num, size))
    return {
        "x0": np.tanh(random.randn(*shape)).astype(np.float32),
        "z": random.randn(*shape).astype(np.float32),
        "y": labels.astype(np.int32),
    }


if __name__ == "__main__":
    command.run(main)
