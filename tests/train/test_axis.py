"""What the axis of students costs one student: nothing, in any method's program."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import one_student
import pytest
import toy
from jax.sharding import PartitionSpec as P

from kdiff_jax import methods, rng
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.train import loop, optim, parallel
from kdiff_jax.train.state import init_state, with_axis, without_axis
from kdiff_jax.train.step import due, make_train_step

BATCH, KEY = 8, jax.random.key(1)
TEACHER = toy.NETS["teacher"].init(jax.random.key(7))
OPERATION = re.compile(r"= \S+ (dynamic-slice|dynamic-update-slice|slice|copy)\(")
SLOW = ("dmd2", "gdd")  # their discriminators take long to compile


class Toy:
    """A method with all that its step reads, on one device."""

    def __init__(self, name):
        self.mesh = parallel.make_mesh(jax.devices()[:1])
        self.method = methods.make(name, nets=toy.NETS, process=cosine())
        self.optim = {r: optim.make(lr=1e-2, batch_size=8) for r in self.method.nets}
        self.frozen = {"teacher": TEACHER}
        self.state = init_state(self.method, self.optim, self.frozen, KEY)
        self.batch = jax.device_get(one_student.stacked(toy.batch(0)))
        self.numbers = toy.numbers(self.method)

    def operations(self, num_students=1):
        """How many operations of each kind are in the program of a stage."""
        made = loop.Programs(
            self.method,
            self.optim,
            self.mesh,
            batch_size=BATCH,
            inputs=one_student.as_they_are,
        )

        def put(tree):
            rows = jax.tree.map(lambda x: jnp.stack([x] * num_students), tree)
            return parallel.by_student(rows, self.mesh)

        state = put(without_axis(self.state))
        return counts(
            made.compiled(0, 1, state).lower(
                state,
                parallel.replicate(self.frozen, self.mesh),
                put(self.numbers),
                parallel.shard_batch(self.batch, self.mesh),
                put(KEY),
                np.int32(0),
            )
        )

    def without(self):
        """The same of a program whose state has no such axis."""
        phases = due(self.method.phases, 0)
        step = make_train_step(self.method, self.optim, phases, axis_name="data")

        def one(state, frozen, numbers, batch, root, positions):
            keys = rng.example_keys(root, state.step, positions)
            state, batch = with_axis(state), without_axis(batch)
            state, metrics = step(state, frozen, numbers, batch, keys)
            return without_axis(state), metrics

        given = P(), P(), P(), P(None, "data"), P(), P("data")
        program = jax.shard_map(
            one, mesh=self.mesh, in_specs=given, out_specs=(P(), P())
        )
        return counts(
            jax.jit(program, donate_argnums=0).lower(
                without_axis(self.state),
                self.frozen,
                self.numbers,
                self.batch,  # it has an axis anyway, of groups of devices
                KEY,
                np.arange(BATCH, dtype=np.int32),
            )
        )


def counts(lowered):
    return collections.Counter(OPERATION.findall(lowered.compile().as_text()))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in methods.names()
    ],
)
def test_the_program_of_one_student_has_no_slice_update_or_copy_more(name):
    made = Toy(name)
    assert made.operations() == made.without()


def test_that_of_several_has_and_it_is_counted():
    made = Toy("denoise")
    several, one = made.operations(num_students=2), made.operations()
    leaves = len(jax.tree.leaves(made.state))
    assert several["dynamic-slice"] > leaves - 2 and not one["dynamic-slice"]
    assert several["dynamic-update-slice"] > 4 and not one["dynamic-update-slice"]
