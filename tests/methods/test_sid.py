"""SiD's phases by hand, and who moves whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kdiff_jax import methods, rng, samplers
from kdiff_jax.diffusion import noise_levels
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Context

EDM, COSINE = processes.edm(), processes.cosine()
KEYS = rng.example_keys(jax.random.key(0), 0, jnp.arange(8))
NET = toy.NETS["teacher"]


def build(process=EDM, **keywords):
    """(phases by name, context with three different denoisers, method)."""
    method = methods.make("sid", nets=toy.NETS, process=process, **keywords)
    student, fake_score, teacher = jax.random.split(jax.random.key(0), 3)
    params = {"student": NET.init(student), "fake_score": NET.init(fake_score)}
    frozen = {"teacher": NET.init(teacher)}
    context = Context(params, params, frozen, {}, toy.batch(0), KEYS, toy.SHARE)
    return {phase.name: phase for phase in method.phases}, context, method


def value_and_grad(phase, context):
    params = {role: context.nets[role] for role in phase.trains}
    return jax.value_and_grad(phase.loss, has_aux=True)(params, context)


def levels():
    """The 1000 levels of Karras et al., rho = 7, ascending."""
    i = np.arange(1000) / 999
    return (0.002 ** (1 / 7) + i * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7


def image(context):
    """(x, y) of the student from noise of size 2.5."""
    z, y = rng.normal(KEYS, "z", toy.SHAPE), rng.randint(KEYS, "y_gen", 10)
    return NET.apply(context.nets["student"], 2.5 * z, jnp.full(8, 2.5), y), y


@pytest.mark.parametrize("alpha", [1.0, 1.2])
def test_student_loss_by_hand(alpha):
    phases, context, _ = build(alpha=alpha)
    (value, _), grads = value_and_grad(phases["student"], context)
    assert set(grads) == {"student"}
    x, y = image(context)
    # Of the grid's lower 80 %: index 0 .. 800.
    t = jnp.asarray(levels()[np.asarray(rng.randint(KEYS, "t", 801))], jnp.float32)
    x_t = x + t[:, None, None, None] * rng.normal(KEYS, "eps", toy.SHAPE)
    real = np.asarray(NET.apply(context.frozen["teacher"], x_t, t, y), np.float64)
    fake = np.asarray(NET.apply(context.nets["fake_score"], x_t, t, y), np.float64)
    x = np.asarray(x, np.float64)
    d = real - fake
    terms = (d * (real - x - alpha * d)).sum((1, 2, 3))
    expected = (terms / np.abs(x - real).mean((1, 2, 3))).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-3)


def test_fake_score_loss_by_hand():
    phases, context, method = build(fake_times="edm")
    assert [p.name for p in method.phases] == ["fake_score", "student"]
    (value, _), grads = value_and_grad(phases["fake_score"], context)
    assert set(grads) == {"fake_score"}
    x, y = image(context)
    t = noise_levels.make("edm", EDM, P_mean=-1.2, P_std=1.2)(KEYS)
    x_t = x + t[:, None, None, None] * rng.normal(KEYS, "eps", toy.SHAPE)
    x0_hat = NET.apply(context.nets["fake_score"], x_t, t, y)
    error = jnp.mean((x0_hat - x) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(value, ((1 / t**2 + 4) * error).mean(), rtol=1e-4)


def test_a_perfect_fake_score_leaves_the_student_alone():
    phases, context, _ = build(COSINE)
    nets = dict(context.nets, fake_score=context.frozen["teacher"])
    (value, _), grads = value_and_grad(phases["student"], context._replace(nets=nets))
    assert value == 0
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_allclose(leaf, 0, atol=1e-6)


def test_the_gradient_flows_through_the_scores():
    """It is another than that of x alone, with both denoised images held."""
    phases, context, _ = build()
    _, grads = value_and_grad(phases["student"], context)
    held = toy.NETS["teacher"]._replace(
        apply=lambda *a, **k: jax.lax.stop_gradient(NET.apply(*a, **k))
    )
    nets = {"student": NET, "teacher": held}
    method = methods.make("sid", nets=nets, process=EDM)
    _, other = value_and_grad(method.phases[1], context)
    assert not np.allclose(grads["student"]["v"], other["student"]["v"], rtol=1e-2)


def test_the_sampler_starts_where_the_student_was_trained():
    _, context, _ = build()
    asked = []

    def watched(params, x_t, t, y):
        asked.append((x_t, t))
        return NET.apply(params, x_t, t, y)

    nets = {"student": NET._replace(apply=watched), "teacher": NET}
    method = methods.make("sid", nets=nets, process=EDM, sigma_init=1.5)
    method.phases[0].loss(context.nets, context)
    ((x_t, t),) = asked
    z = rng.normal(KEYS, "z", toy.SHAPE)
    sampler = samplers.make(process=EDM, **method.sampler)
    # The network that gives back what it is asked.
    np.testing.assert_array_equal(sampler.sample(lambda x_t, t, y: x_t, z), x_t)
    at = sampler.sample(lambda x_t, t, y: 0 * x_t + t[:, None, None, None], z)
    np.testing.assert_array_equal(at[:, 0, 0, 0], t)


def test_unusable_levels_are_refused():
    with pytest.raises(ConfigError, match="sigma_init=100.0: must lie in"):
        build(sigma_init=100.0)
