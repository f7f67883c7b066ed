"""Meshes, batch sizes, and several steps as one program."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import one_student
import pytest
import toy

from kdiff_jax import methods
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Numbers
from kdiff_jax.train import loop, optim, parallel
from kdiff_jax.train.state import init_state

TEACHER = toy.NETS["teacher"].init(jax.random.key(7))


def programs(mesh, name="progressive"):
    method = methods.make(name, nets=toy.NETS, process=cosine())
    adam = {"student": optim.make(lr=1e-2, batch_size=8)}
    state = init_state(method, adam, {"teacher": TEACHER}, jax.random.key(0))
    made = loop.Programs(
        method, adam, mesh, batch_size=8, inputs=one_student.as_they_are
    )
    return made, parallel.by_student(state, mesh)


def run(made, state, num_steps, *, hooks=(), steps_per_dispatch=1, halved=4):
    mesh = made.mesh
    start = loop.step_of(state)
    numbers = Numbers(toy.SHARE, jnp.int32(num_steps), {"num_steps": jnp.int32(halved)})
    return loop.run(
        made,
        state,
        frozen=parallel.replicate({"teacher": TEACHER}, mesh),
        numbers=parallel.by_student(one_student.stacked(numbers), mesh),
        batches=((one_student.stacked(toy.batch(i)),) for i in range(start, num_steps)),
        root_keys=parallel.by_student(jax.random.key(1)[None], mesh),
        num_steps=num_steps,
        hooks=list(hooks),
        save=lambda step, state: None,
        steps_per_dispatch=steps_per_dispatch,
    )


@pytest.fixture(scope="module")
def mesh():
    return parallel.make_mesh(jax.devices()[:2])


def test_several_steps_in_one_dispatch_are_the_same_steps(mesh):
    made, state = programs(mesh)
    one = run(made, state, 6)
    made, state = programs(mesh)
    several = run(made, state, 6, steps_per_dispatch=3)
    chex.assert_trees_all_equal(*map(jax.device_get, (several, one)))


def test_hooks_fall_between_dispatches(mesh):
    seen = []
    hook = loop.Hook(4, lambda step, state: seen.append(step))
    made, state = programs(mesh)
    run(made, state, 10, hooks=[hook], steps_per_dispatch=3)
    assert seen == [4, 8, 10]


def test_rounds_share_one_compiled_program(mesh):
    made, state = programs(mesh)
    for num_steps in (1024, 8, 1):
        run(made, state, 2, halved=num_steps)
        _, state = programs(mesh)
    assert len(made._compiled) == 1
    assert next(iter(made._compiled.values()))._cache_size() == 1


def test_the_axis_of_one_student_costs_nothing(mesh):
    """Nothing is sliced or put back, and no array of the state is copied."""
    made, state = programs(mesh)
    batch = parallel.shard_batch(
        jax.device_get(one_student.stacked(toy.batch(0))), mesh
    )
    numbers = Numbers(toy.SHARE, jnp.int32(9), {"num_steps": jnp.int32(4)})
    text = made.compiled(0, 1, state).lower(
        state,
        parallel.replicate({"teacher": TEACHER}, mesh),
        parallel.by_student(one_student.stacked(numbers), mesh),
        batch,
        parallel.by_student(jax.random.key(1)[None], mesh),
        np.int32(0),
    )
    text = text.compile().as_text()
    assert "dynamic-update-slice" not in text and "dynamic-slice" not in text
    shapes = {x.shape for x in jax.tree.leaves(state.nets["student"].params)}
    copied = re.findall(r"= f32\[([0-9,]*)\]\S* copy\(", text)
    of_state = [c for c in copied if tuple(map(int, c.split(","))) in shapes]
    assert not of_state


def test_a_batch_that_does_not_split_names_the_nearest(mesh):
    with pytest.raises(ConfigError, match="batch_size=7 .* nearest: 6 or 8"):
        parallel.check_batch_size(7, mesh)


def test_students_must_divide_the_devices():
    with pytest.raises(ConfigError, match="num_students=3 does not divide the 8"):
        parallel.make_mesh(num_students=3)
