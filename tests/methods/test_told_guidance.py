"""Students that read the strength of guidance, against two Gaussians in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax import domain, methods, rng
from kdiff_jax.diffusion import process as processes
from kdiff_jax.diffusion.process import broadcast_left
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Context, Net

COSINE = processes.cosine()
KEYS = rng.example_keys(jax.random.key(0), 0, jnp.arange(64))
MEANS = jnp.array([[1.0, 0.0], [-1.0, 0.5]]).reshape(2, 1, 1, 1, 2)  # of the classes
STD = 0.3
LEVELS = (1.0, 5.0)


def branches(x_t, t, y):
    """(x0_hat of the label, x0_hat of none), the means of the posterior."""
    alpha, sigma = (broadcast_left(f(t), x_t) for f in (COSINE.alpha, COSINE.sigma))
    variance = (alpha * STD) ** 2 + sigma**2

    def of(mean):
        return mean + alpha * STD**2 / variance * (x_t - alpha * mean)

    every = jnp.stack([of(mean) for mean in MEANS])
    far = jnp.stack([((x_t - alpha * m) ** 2 / variance).sum((1, 2, 3)) for m in MEANS])
    share = jax.nn.softmax(-far / 2, axis=0)
    free = (
        broadcast_left(share.reshape(-1), x_t[0]).reshape(2, -1, 1, 1, 1) * every
    ).sum(0)
    return jnp.where(broadcast_left(y == 0, x_t), every[0], every[1]), free


def plain(params, x_t, t, y, **keywords):
    """The mixture itself, whose null label is -1."""
    del params, keywords
    labelled, free = branches(x_t, t, y)
    return jnp.where(broadcast_left(y >= 0, x_t), labelled, free)


def reading(params, x_t, t, y, *, guidance, **keywords):
    """free + (a + b w) (labelled - free), with parameters (a, b); guided at (0, 1)."""
    del keywords
    labelled, free = branches(x_t, t, y)
    strength = broadcast_left(params[0] + params[1] * guidance, x_t)
    return free + strength * (labelled - free)


def net(apply, levels=None) -> Net:
    init = lambda key: jnp.zeros(2)  # noqa: E731
    return Net(init, apply, None, (1, 1, 2), 2, guidance_range=levels)


TRUE = jnp.array([0.0, 1.0])


def loss_of(name, teacher, student=None, **keywords):
    """(params) -> the loss on a batch."""
    nets = {"student": student or net(reading, LEVELS), "teacher": teacher}
    options = dict(weight="constant") | keywords
    method = methods.make(name, nets=nets, process=COSINE, **options)
    y = jnp.arange(64) % 2
    eps = jax.random.normal(jax.random.key(1), (64, 1, 1, 2))
    ctx = Context(
        nets={},
        ema={},
        frozen={"teacher": TRUE},
        carry={},
        batch={"x0": MEANS[y][:, 0] + STD * eps, "y": y},
        keys=KEYS,
        share=domain.whole(2, (0.0, 1.0)),
        settings={"num_steps": jnp.int32(16)},
    )
    return jax.jit(lambda params: method.phases[0].loss({"student": params}, ctx)[0])


def test_a_student_that_matches_is_the_guided_teacher_at_every_strength():
    """The loss is a parabola of (a, b), whose lowest point is the guided mixture."""
    loss, start = loss_of("tsm", net(plain)), jnp.zeros(2)
    slope, bend = jax.grad(loss)(start), jax.hessian(loss)(start)
    found = -jnp.linalg.solve(bend, slope)
    np.testing.assert_allclose(found, TRUE, atol=2e-4)
    assert loss(TRUE) < 1e-10 < loss(start)
    x_t, t = jnp.linspace(-2, 2, 12).reshape(6, 1, 1, 2), jnp.linspace(0.1, 0.9, 6)
    y = jnp.arange(6) % 2
    labelled, free = branches(x_t, t, y)
    for w in (1.0, 2.5, 5.0):
        x0_hat = reading(found, x_t, t, y, guidance=jnp.full(6, w))
        np.testing.assert_allclose(x0_hat, free + w * (labelled - free), atol=2e-3)


def test_a_round_is_told_the_strength_as_its_teacher_is():
    """A teacher that reads it and one that is guided are the same closed form."""
    told = loss_of("progressive", net(reading, LEVELS))(TRUE)
    guided = loss_of("progressive", net(plain))(TRUE)
    np.testing.assert_allclose(told, guided, rtol=1e-5)
    # Of many steps the target is nearly the teacher's own prediction at this strength.
    assert 0 < told < 0.05 * loss_of("progressive", net(plain))(jnp.array([1.0, 0.0]))


@pytest.mark.parametrize("name", ["tsm", "progressive"])
def test_strengths_are_drawn_for_each_example_and_lie_in_the_range(name):
    seen = []

    def watched(params, x_t, t, y, *, guidance, **keywords):
        seen.append(guidance)
        return reading(params, x_t, t, y, guidance=guidance, **keywords)

    with jax.disable_jit():
        loss_of(name, net(plain), net(watched, LEVELS))(TRUE)
    (w,) = seen
    assert w.shape == (64,) and LEVELS[0] <= w.min() < 2 < 4 < w.max() <= LEVELS[1]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="guidance=2.0: the student reads its guida"):
        loss_of("tsm", net(plain), guidance=2.0)
    unlabelled = net(plain)._replace(num_classes=0)
    with pytest.raises(ConfigError, match=r"guidance_range=\(1, 5\): a network witho"):
        loss_of("tsm", unlabelled)
    narrow = net(reading, (1.0, 3.0))
    with pytest.raises(ConfigError, match="guidance=5: this network .* for 1 to 3"):
        loss_of("progressive", narrow)
    # A student of one strength, of a teacher that reads it.
    one = net(plain)
    loss_of("tsm", narrow, one, guidance=3.0)
    with pytest.raises(ConfigError, match="guidance=4: this network .* for 1 to 3"):
        loss_of("tsm", narrow, one, guidance=4.0)
    with pytest.raises(ConfigError, match="guidance_interval=.*leave it out"):
        loss_of("tsm", narrow, one, guidance=2.0, guidance_interval=(0.1, 1.0))
