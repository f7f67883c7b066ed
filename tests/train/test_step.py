"""The train step on roles of three numbers, against hand arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Aux, Method, Net, Numbers, Phase, updates_before
from kdiff_jax.train import optim
from kdiff_jax.train.state import Optim, init_state
from kdiff_jax.train.step import due, make_train_step

NET = Net(lambda key: {"w": jnp.zeros(3)}, lambda *args: args[0])
NUMBERS = Numbers(toy.SHARE, jnp.int32(100))
KEYS = jax.random.split(jax.random.key(0), 4)


def phase(name, role, loss, **schedule):
    def of_role(params, ctx):
        value = loss(params[role]["w"], ctx.batch)
        return value, Aux({"loss": value})

    return Phase(name, (role,), of_role, **schedule)


def still(w, batch):
    del batch
    return 0.0 * w.sum()


def advance(method, optims, state, num_steps, batch=None):
    """(the state after so many steps, the metrics of each)."""
    programs, seen = {}, []
    for i in range(num_steps):
        phases = due(method.phases, i)
        if phases not in programs:
            programs[phases] = jax.jit(make_train_step(method, optims, phases))
        state, metrics = programs[phases](state, {}, NUMBERS, batch or {}, KEYS)
        seen.append(metrics)
    return state, seen


def test_a_role_that_is_missing_is_named():
    phases = (phase("student", "student", still),)
    method = Method(nets={"student": NET}, phases=phases, frozen=("teacher",))
    optims, key = {"student": optim.make(lr=1.0)}, jax.random.key(0)
    for function in (
        lambda: init_state(method, {"pupil": optims["student"]}, {}, key),
        lambda: make_train_step(method, {}, method.phases),
    ):
        with pytest.raises(ConfigError, match="optim: has no 'student'.*(pupil|none)"):
            function()
    state = init_state(method, optims, {}, key)
    with pytest.raises(ConfigError, match="frozen: has no 'teacher'"):
        advance(method, optims, state, 1)


def test_the_first_state_holds_copies_and_may_be_donated():
    phases = (phase("student", "student", still),)
    method = Method(nets={"student": NET}, phases=phases)
    optims = {"student": optim.make("sgd", lr=1.0, ema_decay=0.5)}
    given = {"student": {"w": jnp.ones(3)}}
    state = init_state(method, optims, given, jax.random.key(0))
    step = make_train_step(method, optims, phases)
    new, _ = jax.jit(step, donate_argnums=0)(state, {}, NUMBERS, {}, KEYS)
    np.testing.assert_array_equal(given["student"]["w"], 1)
    for leaf in (new.nets["student"].params["w"], new.nets["student"].ema["ema"]["w"]):
        np.testing.assert_array_equal(leaf, np.ones((1, 3)))


@pytest.mark.parametrize("every", [1, 5])
def test_the_average_has_its_half_life_in_images_of_its_role(every):
    """400 images are 50 updates of 8: then half of the first average is left."""
    phases = (phase("student", "student", still, every=every),)
    method = Method(nets={"student": NET}, phases=phases)
    options = dict(ema_half_life=400.0, ema_ramp_up=1e12)
    optims = {"student": optim.make("sgd", lr=1.0, batch_size=8, **options)}
    state = init_state(method, optims, {}, jax.random.key(0))
    net = state.nets["student"].replace(ema={"ema": {"w": jnp.ones((1, 3))}})
    # Not from 0, where no image is seen yet and the average is that of now.
    state = state.replace(nets={"student": net}, step=jnp.int32([5]))
    state, _ = advance(method, optims, state, 50 * every)
    average = state.nets["student"].ema["ema"]["w"]
    np.testing.assert_allclose(average, 0.5, rtol=1e-5)


def test_averages_of_other_names_are_kept_beside_it():
    phases = (phase("student", "student", lambda w, batch: -w.sum()),)
    method = Method(nets={"student": NET}, phases=phases)
    more = {"slow": {"decay": 0.9}, "wide": {"power": 0.1}}
    options = dict(ema_decay=0.5, averages=more)
    optims = {"student": optim.make("sgd", lr=1.0, batch_size=8, **options)}
    state = init_state(method, optims, {}, jax.random.key(0))
    first = np.asarray(state.nets["student"].params["w"])
    new, _ = advance(method, optims, state, 3)
    found = new.nets["student"].ema
    assert set(found) == {"ema", "slow", "wide"}
    for name, decays in (("ema", [0.5] * 3), ("slow", [0.9] * 3)):
        expected = first
        for i, decay in enumerate(decays):
            expected = decay * expected + (1 - decay) * (first + i + 1)
        np.testing.assert_allclose(found[name]["w"], expected, rtol=1e-6)
    # Of a power function, weights s^gamma; gamma of 0.1 is 6.94.
    mean = sum((first + s) * _share(s) for s in (1, 2, 3))
    np.testing.assert_allclose(found["wide"]["w"], mean, rtol=1e-4)


def _share(s, gamma=6.94):
    """The weight of step s of 3 in the average: s^(gamma + 1) - (s - 1)^(gamma + 1)."""
    return (s ** (gamma + 1) - (s - 1) ** (gamma + 1)) / 3 ** (gamma + 1)


def test_two_phases_of_a_step_move_an_average_once():
    """As GDD's discriminator, which has a penalty at some of its steps."""
    phases = (
        phase("disc", "disc", still),
        phase("r1", "disc", still, every=2, offset=2),
    )
    method = Method(nets={"disc": NET}, phases=phases)
    optims = {
        "disc": Optim(optax.identity(), lambda *a: 1.0, {"ema": lambda updates: 0.5})
    }
    state = init_state(method, optims, {}, jax.random.key(0))
    net = state.nets["disc"].replace(ema={"ema": {"w": jnp.ones((1, 3))}})
    state, _ = advance(method, optims, state.replace(nets={"disc": net}), 3)
    np.testing.assert_array_equal(state.nets["disc"].ema["ema"]["w"], 0.5**3)


@pytest.mark.parametrize(
    "schedules",
    [
        [(1, 0)],
        [(5, 0)],
        [(1, 0), (16, 16)],
        [(2, 0), (2, 1)],
        [(2, 0), (3, 0)],
        [(4, 0), (4, 8)],
        [(3, 7)],
    ],
)
def test_updates_before_a_step(schedules):
    phases = tuple(
        phase(str(i), "disc", still, every=every, offset=offset)
        for i, (every, offset) in enumerate(schedules)
    )
    count = updates_before((*phases, phase("other", "student", still)), "disc")
    updated = [any(p in due(phases, s) for p in phases) for s in range(100)]
    expected = np.concatenate([[0], np.cumsum(updated)])
    found = jax.jit(jax.vmap(count))(jnp.arange(101))
    np.testing.assert_array_equal(found, expected)


def test_a_role_without_an_average_holds_none():
    phases = (phase("student", "student", still), phase("disc", "disc", still))
    method = Method(nets={"student": NET, "disc": NET}, phases=phases)
    optims = {
        "student": optim.make(lr=1.0, batch_size=8, ema_decay=0.9),
        "disc": optim.make(lr=1.0, batch_size=8),
    }
    state = init_state(method, optims, {}, jax.random.key(0))
    new, _ = advance(method, optims, state, 2)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert state.nets["disc"].ema == {} and set(state.nets["student"].ema) == {"ema"}


def sum_with_a_root(w, batch):
    """Its gradient is 1, but infinite at the first number, where that is 0."""
    return w[1:].sum() + jnp.sqrt(w[0] * batch["scale"])


@pytest.mark.parametrize(
    ("scale", "moved", "num_bad"), [(1.0, [0, -1, -1], 1), (jnp.nan, [0, -1, -1], 1)]
)
def test_gradients_that_are_not_finite_become_0_where_that_is_asked(
    scale, moved, num_bad
):
    method = Method(
        nets={"student": NET},
        phases=(phase("student", "student", sum_with_a_root),),
    )
    batch = {"scale": jnp.float32(scale)}
    for asked in (True, None):
        options = dict(lr=1.0, batch_size=8, zero_nonfinite=asked)
        optims = {"student": optim.make("sgd", **options)}
        state = init_state(method, optims, {}, jax.random.key(0))
        state, (metrics,) = advance(method, optims, state, 1, batch)
        (found,) = np.asarray(state.nets["student"].params["w"])
        if asked:
            np.testing.assert_array_equal(found, moved)
            assert metrics["student/nonfinite_grads"] == num_bad
            assert all(np.isfinite(value) for value in metrics.values())
        else:
            assert not np.isfinite(found[0])
            assert not np.isfinite(metrics["student/grad_norm"])
            assert "student/nonfinite_grads" not in metrics
