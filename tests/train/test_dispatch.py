"""Schedules of several phases: what is dispatched at once, what is logged of it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import one_student
import optax
import pytest
import toy

from kdiff_jax import rng
from kdiff_jax.errors import Interrupted
from kdiff_jax.method import Aux, Method, Net, Numbers, Phase
from kdiff_jax.train import loop, parallel
from kdiff_jax.train.means import Means
from kdiff_jax.train.state import Optim, init_state
from kdiff_jax.train.step import due

NUM_STEPS = 40
NUMBERS = one_student.stacked(Numbers(toy.SHARE, jnp.int32(NUM_STEPS)))
SGD = Optim(optax.trace(0.9), lambda step, n: 0.1, toy.EMAS)


def towards_noise(role, other):
    """A loss whose minimum moves with the step, and depends on the other role."""

    def loss(params, ctx):
        target = rng.normal(ctx.keys, role, (3,)) + 0.1 * ctx.nets[other]["w"][None]
        value = ((params[role]["w"][None] - target) ** 2).mean()
        return value, Aux({"loss": value})

    return loss


def method(student_every) -> Method:
    """The schedules of DMD2 and of GDD at once."""
    moves_student = towards_noise("student", "disc")
    moves_disc = towards_noise("disc", "student")
    net = Net(lambda key: {"w": jax.random.normal(key, (3,))}, lambda *args: args[0])
    return Method(
        nets={"student": net, "disc": net},
        phases=(
            Phase("student", ("student",), moves_student, every=student_every),
            Phase("disc", ("disc",), moves_disc),
            Phase("r1", ("disc",), moves_disc, every=16, offset=16),
        ),
    )


def begin(which, mesh):
    optim = {role: SGD for role in which.nets}
    state = init_state(which, optim, {}, jax.random.key(0))
    programs = loop.Programs(
        which, optim, mesh, batch_size=4, inputs=lambda frozen, batch, keys: batch
    )
    return programs, parallel.by_student(state, mesh)


def run(programs, state, *, hooks=(), per_dispatch=1, observe=None, save=None):
    mesh = programs.mesh
    return loop.run(
        programs,
        state,
        frozen={},
        numbers=parallel.by_student(NUMBERS, mesh),
        batches=iter(lambda: ({"x0": np.zeros((1, 4, 1), np.float32)},), None),
        root_keys=parallel.by_student(jax.random.key(1)[None], mesh),
        num_steps=NUM_STEPS,
        hooks=list(hooks),
        observe=observe or (lambda sums, num_steps: None),
        save=save or (lambda step, state: None),
        steps_per_dispatch=per_dispatch,
    )


@pytest.fixture(scope="module")
def mesh():
    return parallel.make_mesh(jax.devices()[:1])


def at_step(state, step):
    return state.replace(step=jax.device_put(np.int32([step]), state.step.sharding))


@pytest.mark.parametrize("student_every", [1, 2, 5])
def test_a_mixed_schedule_in_one_dispatch_has_one_program_a_set(student_every, mesh):
    """From whatever step it begins, and the bits are those of the steps one by one."""
    which = method(student_every)
    several, _ = begin(which, mesh)
    single, _ = begin(which, mesh)
    for first in (0, 3, 6, 16, 21):
        states = []
        for programs, per_dispatch in ((several, 4), (single, 1)):
            state = at_step(begin(which, mesh)[1], first)
            states.append(run(programs, state, per_dispatch=per_dispatch))
        chex.assert_trees_all_equal(*map(jax.device_get, states))
    sets = {due(which.phases, i) for i in range(NUM_STEPS)}
    assert len(single._compiled) == len(sets)
    assert len(several._compiled) == len(sets)
    for program in several._compiled.values():
        # Not 2, a shape or type that differs; JAX forgets the oldest of thousands.
        assert program._cache_size() <= 1


@pytest.mark.parametrize(
    "student_every, step, together",
    [(5, 0, 1), (5, 1, 4), (5, 16, 1), (1, 0, 10), (1, 16, 1), (2, 1, 1)],
)
def test_a_program_has_room_for_its_longest_run(student_every, step, together, mesh):
    programs, _ = begin(method(student_every), mesh)
    assert programs.together(step, 10) == together
    assert programs.together(step, 1) == 1


def test_runs_end_where_another_phase_is_due_or_a_hook_is(mesh):
    lengths = []
    hook = loop.Hook(12, lambda step, state: None)
    run(
        *begin(method(5), mesh),
        hooks=[hook],
        per_dispatch=10,
        observe=lambda sums, num_steps: lengths.append(num_steps),
    )
    # The student's at 0, 5, ..., the penalty at 16 and 32, the hook before 12, 24, 36.
    expected = [1, 4, 1, 4, 1, 1, 3, 1, 1, 3, 1, 3, 1, 1, 4, 1, 1, 1, 2, 1, 4]
    assert lengths == expected and sum(lengths) == NUM_STEPS


@pytest.mark.parametrize("stop_after", [1, 7, 16, 19])
def test_stopped_anywhere_the_dispatches_and_so_the_bits_are_the_same(
    stop_after, mesh, monkeypatch
):
    which = method(5)
    programs, state = begin(which, mesh)
    hooks = [loop.Hook(8, lambda step, state: None)]
    whole = jax.device_get(run(programs, state, hooks=hooks, per_dispatch=4))
    kept = []
    monkeypatch.setattr(loop, "_should_stop", lambda step, num: step >= stop_after)
    with pytest.raises(Interrupted):
        run(
            programs,
            begin(which, mesh)[1],
            hooks=hooks,
            per_dispatch=4,
            save=lambda step, state: kept.append(jax.device_get(state)),
        )
    monkeypatch.undo()
    state = parallel.by_student(kept[0], mesh)
    resumed = jax.device_get(run(programs, state, hooks=hooks, per_dispatch=4))
    chex.assert_trees_all_equal(resumed, whole)


@pytest.mark.parametrize("per_dispatch", [1, 4])
def test_means_are_of_every_step_at_which_a_phase_ran(per_dispatch, mesh):
    which = method(5)
    programs, state = begin(which, mesh)
    each: dict[str, list[float]] = {}

    def one_by_one(sums, num_steps):
        assert num_steps == 1
        for name, value in sums.items():
            each.setdefault(name, []).append(float(value[0][0]))

    run(programs, state, observe=one_by_one)
    means, lines = Means(), []
    hook = loop.Hook(20, lambda step, state: lines.append(means.take()))
    run(
        *begin(which, mesh),
        hooks=[hook],
        observe=means.add,
        per_dispatch=per_dispatch,
    )
    # 8 updates of the student in 40 steps, 2 of the penalty, at 16 and 32.
    assert [len(each[f"{p}/loss"]) for p in ("student", "disc", "r1")] == [8, 40, 2]
    for half, line in enumerate(lines):
        for name in line:
            part = np.split(np.array(each[name]), 2)[half]
            np.testing.assert_allclose(line[name][0][0], part.mean(), rtol=1e-5)


def test_a_phase_that_did_not_run_has_no_mean():
    means = Means()
    means.add({"disc/loss": jnp.float32(3)}, 1)
    means.add({"disc/loss": jnp.float32(9), "student/loss": jnp.float32(8)}, 3)
    assert means.take() == {"disc/loss": 3.0, "student/loss": 8 / 3}
    means.add({"disc/loss": jnp.float32(1)}, 1)
    assert means.take() == {"disc/loss": 1.0}
    assert means.take() == {}
