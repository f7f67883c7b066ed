"""What holds for every method; a new file in methods/ is tested by being there."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import one_student
import optax
import pytest
import toy
from tolerance import REORDER

from kdiff_jax import methods, rng
from kdiff_jax.diffusion.process import cosine
from kdiff_jax.errors import ConfigError
from kdiff_jax.train.state import Optim, init_state
from kdiff_jax.train.step import due, make_train_step

FROZEN = {"teacher": toy.NETS["teacher"].init(jax.random.key(7))}
# Not Adam: it is scale-invariant, and so hides a gradient that is D times too large.
SGD = Optim(optax.identity(), lambda step, n: 1.0, toy.EMAS)
MOMENTUM = SGD._replace(tx=optax.trace(0.9))  # the same with a state

every_method = pytest.mark.parametrize("name", methods.names())
# GDD's discriminator takes long to compile: of two like tests, one runs with --all, and
# so do those that tests/methods/test_gdd.py repeats.
one_of_two = [
    pytest.param(name, marks=pytest.mark.slow if name == "gdd" else ())
    for name in methods.names()
]


DEAR = ("dmd2", "gdd")  # they have a discriminator
ONE_ROLE = ("denoise", "progressive", "denoising_student")


def build(name, seed=0, optimizer=SGD):
    method = methods.make(name, nets=toy.NETS, process=cosine())
    optim = {role: optimizer for role in method.nets}
    # A fake score that is still the teacher would not move SiD's student.
    given = FROZEN | {"fake_score": toy.NETS["teacher"].init(jax.random.key(8))}
    state = init_state(method, optim, given, jax.random.key(seed))
    numbers = toy.numbers(method)
    return method, optim, state, numbers


def keys_of(step, size=8):
    return rng.example_keys(jax.random.key(1), step, jnp.arange(size))


def assert_close(actual, expected):
    chex.assert_trees_all_close(actual, expected, **REORDER)


@every_method
def test_the_module_says_whether_the_method_takes_a_range_of_times(name):
    method = methods.make(name, nets=toy.NETS, process=cosine())
    assert methods.takes_times(name) == ("t_range" in method.draws)


@every_method
def test_structure_is_kept_and_each_schedule_is_traced_once(name):
    chex.clear_trace_counter()
    method, optim, state, numbers = build(name)
    compiled = {}
    schedules = {due(method.phases, i) for i in range(6)}
    for i in range(6):
        phases = due(method.phases, i)
        if phases not in compiled:
            step = make_train_step(method, optim, phases)
            # Chex counts the traces of all of them together.
            compiled[phases] = jax.jit(chex.assert_max_traces(step, n=len(schedules)))
        run = compiled[phases]
        new, metrics = run(state, FROZEN, numbers, toy.batch(i), keys_of(i))
        chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
        chex.assert_tree_all_finite((new, metrics))
        state = new
    assert state.step == 6


@every_method
def test_a_phase_moves_the_roles_it_declares_and_no_other(name):
    """Bit for bit: parameters, optimizer state and moving average."""
    method, optim, state, numbers = build(name, optimizer=MOMENTUM)
    for phase in method.phases:
        step = jax.jit(make_train_step(method, optim, (phase,)))
        new, _ = step(state, FROZEN, numbers, toy.batch(0), keys_of(0))
        assert new.nets.keys() == state.nets.keys()
        for role, net in state.nets.items():
            moved = jax.tree.map(lambda a, b: (a != b).any(), net, new.nets[role])
            for part in ("params", "opt_state", "ema"):
                found = any(jax.tree.leaves(getattr(moved, part)))
                assert found == (role in phase.trains), (phase.name, role, part)


@pytest.mark.parametrize(
    ("name", "num_devices"),
    [
        *(pytest.param(*p.values, 4, marks=p.marks) for p in one_of_two),
        *(
            pytest.param(name, 8, marks=() if name in ONE_ROLE else pytest.mark.slow)
            for name in methods.names()
        ),
    ],
)
def test_result_does_not_depend_on_the_number_of_devices(name, num_devices):
    method, optim, state, numbers = build(name)

    def program(devices):
        step = make_train_step(method, optim, method.phases, axis_name="data")
        return one_student.train(
            step,
            devices,
            state,
            frozen=FROZEN,
            numbers=numbers,
            batch=toy.batch(0),
            key=jax.random.key(1),
        )

    one, metrics_one = program(jax.devices()[:1])
    many, metrics_many = program(jax.devices()[:num_devices])
    assert_close(many.nets, one.nets)
    assert_close(metrics_many, metrics_one)


@pytest.mark.parametrize(
    ("name", "unroll"),
    [
        # The same for each; SiD and DMD have several roles, too.
        *(
            pytest.param(n, False, marks=pytest.mark.slow if n in DEAR else ())
            for n in methods.names()
        ),
        # The loop over them is the same code for all.
        ("denoise", True),
        *(
            pytest.param(name, True, marks=pytest.mark.slow)
            for name in methods.names()
            if name != "denoise"
        ),
    ],
)
def test_microbatches_change_nothing(name, unroll):
    method, optim, state, numbers = build(name)
    inputs = (state, FROZEN, numbers, toy.batch(0), keys_of(0))
    whole = jax.jit(make_train_step(method, optim, method.phases))(*inputs)
    step = make_train_step(
        method, optim, method.phases, num_microbatches=4, unroll=unroll
    )
    parts = jax.jit(step)(*inputs)
    assert_close(parts[0].nets, whole[0].nets)


def phases_that_train():
    """(method, phase); the third of GDD's, the slowest to compile, with --all."""
    found = []
    for name in methods.names():
        for phase in methods.make(name, nets=toy.NETS, process=cosine()).phases:
            marks = pytest.mark.slow if phase.name == "r1" else ()
            if phase.trains:
                found.append(pytest.param(name, phase.name, marks=marks))
    return found


@pytest.mark.parametrize(("name", "phase_name"), phases_that_train())
def test_forty_steps_of_one_phase_lower_its_own_loss(name, phase_name):
    """Beside players that stand still: the progress of others does not stand for it."""
    method = methods.make(name, nets=toy.NETS, process=cosine())
    (phase,) = (p for p in method.phases if p.name == phase_name)
    optim = {r: Optim(optax.scale_by_adam(), lambda *a: 1e-2) for r in method.nets}
    # Neither is a copy of the teacher, which would be too good.
    begin = {"student": 3, "fake_score": 8}
    given = {r: toy.NETS["teacher"].init(jax.random.key(k)) for r, k in begin.items()}
    state = init_state(method, optim, FROZEN | given, jax.random.key(0))
    numbers = toy.numbers(method)
    step = jax.jit(make_train_step(method, optim, (phase,)))
    lines = []
    for _ in range(40):
        state, metrics = step(state, FROZEN, numbers, toy.batch(0), keys_of(0))
        lines.append({k.split("/")[1]: float(v) for k, v in metrics.items()})
    first, last = lines[0], lines[-1]
    # Its terms too, but for a GAN's of DMD2, whose weight is 0.003.
    terms = {"loss", "dm", "regression", "fake_score", "disc"} & first.keys()
    stuck = {t for t in terms if not last[t] < first[t] - 0.1 * abs(first[t])}
    assert not stuck, [(t, first[t], last[t]) for t in stuck]


@every_method
def test_settings_have_defaults_and_unknown_keywords_are_refused(name):
    method = methods.make(name, nets=toy.NETS, process=cosine())
    assert "student" in method.nets
    with pytest.raises(ConfigError, match="has no keyword"):
        methods.make(name, nets=toy.NETS, process=cosine(), gan_wieght=1.0)


@every_method
def test_a_network_that_is_missing_is_named(name):
    other = {"pupil": toy.NETS["student"]}
    with pytest.raises(ConfigError, match=f"no 'student'.*{name}.*; it has pupil: add"):
        methods.make(name, nets=other, process=cosine())


def test_an_unknown_method_lists_what_there_is():
    with pytest.raises(ConfigError, match="denoise, denoising_student, .*progressive"):
        methods.make("progresive")


def test_keys_belong_to_a_place_in_the_global_batch():
    whole = rng.normal(keys_of(3), "eps", (2,))
    part = rng.example_keys(jax.random.key(1), 3, jnp.arange(4, 8))
    np.testing.assert_array_equal(whole[4:], rng.normal(part, "eps", (2,)))
