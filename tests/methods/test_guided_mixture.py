"""The student's update in DMD and DMD2 under guidance, against a mixture's own scores.

Teacher and fake score are exact denoisers of two mixtures, so that what moves an image
is sigma (s_fake - w s_label - (1 - w) s_null), with scores s written down by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax import domain, methods, rng
from kdiff_jax.diffusion import grids
from kdiff_jax.diffusion import process as processes
from kdiff_jax.method import Context, Net

MEANS = np.array([[0.8, -0.1], [-0.8, 0.8], [-0.5, -1.0]], np.float32)
SHARES, STD = np.array([0.5, 0.3, 0.2], np.float32), 0.4
OFF = np.array([0.3, -0.2], np.float32)  # of the student's modes from the teacher's
BATCH, SHAPE = 48, (1, 1, 2)
PROCESSES = {
    "edm": processes.edm(sigma_min=0.1, sigma_max=3.0),
    "cosine": processes.cosine(),
}
# Options without a second term in the student's loss.
ALONE = {"dmd": dict(regression_weight=0.0), "dmd2": dict(gan_weight=0.0)}
GUIDED = {
    "none": {},
    "everywhere": dict(guidance=3.0),
    "in an interval": dict(guidance=3.0, guidance_interval=(0.3, 1.5)),
}


def exact(process) -> Net:
    """E[x0 | x_t, y] of the mixture whose means are the parameters; -1 is no label."""

    def apply(params, x_t, t, y, **keywords):
        del keywords
        alpha, sigma = (f(t)[:, None, None] for f in (process.alpha, process.sigma))
        variance = (alpha * STD) ** 2 + sigma**2
        apart = x_t.reshape(-1, 1, 2) - alpha * params[None]
        far = jnp.log(SHARES)[None] - 0.5 * ((apart**2) / variance).sum(-1)
        share = jnp.where(y[:, None] < 0, jax.nn.softmax(far), jax.nn.one_hot(y, 3))
        means = params[None] + alpha * STD**2 / variance * apart
        return (share[..., None] * means).sum(1).reshape(x_t.shape)

    return Net(lambda key: jnp.zeros((3, 2)), apply, None, SHAPE, num_classes=3)


def table() -> Net:
    """A student whose parameters are its images."""
    init = lambda key: jnp.zeros((BATCH, *SHAPE))  # noqa: E731
    return Net(init, lambda params, *_, **__: params, None, SHAPE, num_classes=3)


def student_update(name, process, weight, options):
    """(images, labels of the student, the gradient of its loss, times, noise)."""
    nets = {"student": table(), "teacher": exact(process)}
    more = ALONE[name] | options
    method = methods.make(name, nets=nets, process=process, dm_weight=weight, **more)
    keys = rng.example_keys(jax.random.key(3), 0, jnp.arange(BATCH))
    x = 0.9 * rng.normal(jax.random.split(jax.random.key(4), BATCH), "x", SHAPE)
    zeros = jnp.zeros((BATCH, *SHAPE))
    ctx = Context(
        nets={"student": x, "fake_score": jnp.asarray(MEANS + OFF[None])},
        ema={},
        frozen={"teacher": jnp.asarray(MEANS)},
        carry=method.carry,
        batch={"z": zeros, "x0": zeros, "y": jnp.zeros(BATCH, jnp.int32)},
        keys=keys,
        share=domain.whole(3, (process.t_min, process.t_max)),
        settings=method.settings,
    )
    ctx = ctx._replace(batch=method.prepare(ctx))
    (phase,) = (p for p in method.phases if p.trains == ("student",))
    slope = jax.jit(jax.grad(lambda x: phase.loss({"student": x}, ctx)[0]))(x)
    t = grids.draw_from(process, low=0.02, high=0.98)(keys, "t")
    eps = rng.normal(keys, "eps", SHAPE)
    flat = [np.asarray(a, np.float64).reshape(BATCH, 2) for a in (x, slope, eps)]
    return flat, np.asarray(ctx.batch["y_gen"]), np.asarray(t)


def score(x_t, alpha, variance, means, y=None):
    """f64[B, 2]: the gradient of log p(x_t | y), or of log p(x_t)."""
    of_modes = -(x_t[:, None] - alpha[..., None] * means) / variance[..., None]
    if y is not None:
        return of_modes[np.arange(len(y)), y]
    square = ((x_t[:, None] - alpha[..., None] * means) ** 2).sum(-1)
    share = SHARES * np.exp(-0.5 * square / variance)
    return ((share / share.sum(1, keepdims=True))[..., None] * of_modes).sum(1)


def by_hand(process, weight, guided, x, eps, y, t):
    """(what moves each image by the scores, bool[B] where guidance acts)."""
    at = jnp.asarray(t)
    alpha, sigma = (
        np.asarray(f(at), np.float64)[:, None] for f in (process.alpha, process.sigma)
    )
    x_t, variance = alpha * x + sigma * eps, (alpha * STD) ** 2 + sigma**2
    low, high = guided.get("guidance_interval", (0, np.inf))
    inside = (low < sigma / alpha) & (sigma / alpha <= high)
    w = np.where(inside, guided.get("guidance", 1.0), 1.0)
    about = x_t, alpha, variance
    real = w * score(*about, MEANS, y) + (1 - w) * score(*about, MEANS)
    g = sigma * (score(*about, MEANS + OFF, y) - real)
    if weight == "normalized":
        x0_hat = (x_t + sigma**2 * real) / alpha
        g *= sigma / alpha / np.abs(x - x0_hat).mean(1, keepdims=True)
    return g, inside.ravel()


@pytest.mark.parametrize("guided", GUIDED)
@pytest.mark.parametrize("weight", ["sigma", "normalized"])
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", ALONE)
def test_a_student_follows_the_guided_score_of_a_mixture(name, process, weight, guided):
    about, options = PROCESSES[process], GUIDED[guided]
    (x, slope, eps), y, t = student_update(name, about, weight, options)
    found = slope * x.size  # the loss is the mean over all numbers
    expected, inside = by_hand(about, weight, options, x, eps, y, t)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
    # What acts is seen: without it the same images go elsewhere, and nothing else does.
    plain, _ = by_hand(about, weight, {}, x, eps, y, t)
    moved = np.abs(expected - plain).max(1) > 1e-2 * np.abs(plain).max(1)
    assert set(y) == {0, 1, 2}
    if guided == "none":
        assert not moved.any()
    elif guided == "everywhere":
        assert moved.mean() > 0.7
    else:
        assert not moved[~inside].any() and moved[inside].mean() > 0.7
        assert 8 < inside.sum() < BATCH - 8
