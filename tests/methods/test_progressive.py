"""The target of progressive distillation: identity, last interval, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from tolerance import REORDER

from kdiff_jax import domain, methods, rng
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Context, Net
from kdiff_jax.methods.progressive import make_target

COSINE = processes.cosine()


def teacher(x_t, t):
    """Any smooth function of x_t and t."""
    return jnp.tanh(1.3 * x_t) * (0.5 + t[:, None, None, None])


def draw(num=16):
    keys = jax.random.split(jax.random.key(0), 2)
    x0 = jnp.tanh(jax.random.normal(keys[0], (num, 3, 3, 1)))
    return x0, jax.random.normal(keys[1], x0.shape)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 16])
def test_one_student_step_lands_where_two_teacher_steps_do(num_steps):
    x0, eps = draw()
    i = jnp.arange(16) % num_steps
    x_t, t, target = make_target(teacher, x0, eps, i, num_steps, process=COSINE)
    m, s = t - 0.5 / num_steps, t - 1 / num_steps
    x_m = COSINE.ddim_step(x_t, teacher(x_t, t), t, m)
    x_s = COSINE.ddim_step(x_m, teacher(x_m, m), m, s)
    landed = COSINE.ddim_step(x_t, target, t, s)
    inside = np.asarray(i) > 0
    np.testing.assert_allclose(landed[inside], x_s[inside], rtol=1e-5, atol=1e-5)


def test_the_last_interval_returns_the_teachers_last_prediction():
    x0, eps = draw(4)
    x_t, t, target = make_target(teacher, x0, eps, jnp.zeros(4, int), 8, process=COSINE)
    x_m = COSINE.ddim_step(x_t, teacher(x_t, t), t, t / 2)
    np.testing.assert_allclose(target, teacher(x_m, t / 2), **REORDER)


@pytest.mark.parametrize("num_steps", [1, 4, 64, 8192])
def test_the_mean_is_the_papers_quotient_in_double_precision(num_steps):
    """x0_target = (x_s - r x_t) / (alpha_s - r alpha_t), evaluated in float64."""
    x0, eps = draw()
    i = (
        1 + jnp.arange(16) * (num_steps - 2) // 16
        if num_steps > 2
        else jnp.ones(16, int)
    )
    i = jnp.minimum(i, num_steps - 1)
    _, _, target = make_target(teacher, x0, eps, i, num_steps, process=COSINE)

    b = np.arctan(np.exp(-10.0))
    a = np.pi / 2 - 2 * b
    index = np.asarray(i, np.float64).reshape(-1, 1, 1, 1)
    t, m, s = (index + 1) / num_steps, (index + 0.5) / num_steps, index / num_steps
    alpha, sigma = (lambda u: np.cos(a * u + b)), (lambda u: np.sin(a * u + b))

    def predict(x, u):
        return np.tanh(1.3 * x) * (0.5 + u)

    def ddim(x, x_hat, u, v):
        return alpha(v) * x_hat + sigma(v) * (x - alpha(u) * x_hat) / sigma(u)

    x_t = alpha(t) * np.asarray(x0, np.float64) + sigma(t) * np.asarray(eps, np.float64)
    x_m = ddim(x_t, predict(x_t, t), t, m)
    x0_m = predict(x_m, m)
    x_s = ddim(x_m, x0_m, m, s)
    ratio = sigma(s) / sigma(t)
    expected = (x_s - ratio * x_t) / (alpha(s) - ratio * alpha(t))
    expected = np.where(index == 0, x0_m, expected)
    np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-5)


def test_a_student_of_a_perfect_teacher_is_asked_for_the_image():
    x0, eps = draw()
    i = jnp.arange(16) % 4
    target = make_target(lambda x, t: x0, x0, eps, i, 4, process=COSINE)[2]
    np.testing.assert_allclose(target, x0, **REORDER)


def test_the_grid_contains_pure_noise():
    x0, eps = draw()
    x_t, t, _ = make_target(teacher, x0, eps, jnp.full(16, 3), 4, process=COSINE)
    assert (t == 1).all()
    np.testing.assert_allclose(x_t, eps, atol=1e-4)


@pytest.mark.parametrize(("lo", "hi"), [(0.0, 1.0), (0.0, 0.25), (0.5, 0.75)])
def test_a_student_of_a_range_and_its_teacher_are_asked_in_it_alone(lo, hi):
    """All of the range's steps occur, t and the middle of each are in lo < t <= hi."""
    seen = {"student": [], "teacher": []}

    def net(role):
        def apply(params, x_t, t, y, **_):
            seen[role].append(np.asarray(t))
            return params["w"] * x_t

        return Net(lambda key: {}, apply)

    nets = {role: net(role) for role in seen}
    method = methods.make("progressive", nets=nets, process=COSINE)
    keys = rng.example_keys(jax.random.key(0), 0, jnp.arange(64))
    batch = {"x0": jnp.ones((64, 2, 2, 1)), "y": jnp.zeros(64, jnp.int32)}
    settings = {"num_steps": jnp.int32(8)}
    share = domain.Share(jnp.arange(1), jnp.float32([lo, hi]))
    params = {"w": jnp.float32(1)}
    context = Context(
        {}, {}, {"teacher": params}, {}, batch, keys, share, settings=settings
    )
    method.phases[0].loss({"student": params}, context)
    grid = np.arange(1, 9) / 8
    owned = grid[(grid > lo) & (grid <= hi)]
    assert set(np.concatenate(seen["student"]).tolist()) == set(owned.tolist())
    asked = np.concatenate(seen["teacher"])
    assert (asked > lo).all() and (asked <= hi).all()
    assert set(asked.tolist()) == {*owned.tolist(), *(owned - 1 / 16).tolist()}


def test_a_discrete_process_is_refused():
    with pytest.raises(ConfigError, match='use process "cosine"'):
        methods.make(
            "progressive",
            nets=toy.NETS,
            process=processes.discrete(),
        )
