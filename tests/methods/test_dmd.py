"""DMD's losses by hand, and who moves whom."""

import functools

import chex
import jax
import jax.numpy as jnp
import lpips_files
import numpy as np
import pytest
import toy

from kdiff_jax import methods, rng
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import ConfigError
from kdiff_jax.features import lpips
from kdiff_jax.method import Context, Net

EDM, COSINE = processes.edm(), processes.cosine()
KEYS = rng.example_keys(jax.random.key(0), 0, jnp.arange(8))
NET = toy.NETS["teacher"]


def build(process=EDM, **keywords):
    """(phases by name, context with three different denoisers)."""
    method = methods.make("dmd", nets=toy.NETS, process=process, **keywords)
    student, fake_score, teacher = jax.random.split(jax.random.key(0), 3)
    params = {"student": NET.init(student), "fake_score": NET.init(fake_score)}
    frozen = {"teacher": NET.init(teacher)}
    context = Context(params, params, frozen, {}, toy.batch(0), KEYS, toy.SHARE)
    context = context._replace(batch=method.prepare(context))
    return {phase.name: phase for phase in method.phases}, context


def value_and_grad(phase, context):
    params = {role: context.nets[role] for role in phase.trains}
    return jax.value_and_grad(phase.loss, has_aux=True)(params, context)


def levels():
    """The 1000 levels of Karras et al., rho = 7, ascending."""
    i = np.arange(1000) / 999
    return (0.002 ** (1 / 7) + i * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7


def noised(x, t):
    eps = np.asarray(rng.normal(KEYS, "eps", toy.SHAPE), np.float64)
    return jnp.asarray(x + t[:, None, None, None] * eps, jnp.float32), jnp.asarray(
        t, jnp.float32
    )


def test_student_loss_by_hand():
    phases, context = build(regression_weight=0.5)
    (value, aux), _ = value_and_grad(phases["student"], context)
    batch, params = context.batch, context.nets["student"]
    x = np.asarray(batch["x_gen"], np.float64)
    t = levels()[20:981][np.asarray(rng.randint(KEYS, "t", 961))]
    x_t, t = noised(x, t)
    real, fake = (
        np.asarray(NET.apply(p, x_t, t, batch["y_gen"]), np.float64)
        for p in (context.frozen["teacher"], context.nets["fake_score"])
    )
    g = (fake - real) / np.abs(x - real).mean((1, 2, 3), keepdims=True)
    dm = 0.5 * (g**2).mean()
    x0_hat = NET.apply(params, 80 * batch["z"], jnp.full(8, 80.0), batch["y"])
    kd = np.mean((np.asarray(x0_hat) - np.asarray(batch["x0"])) ** 2)
    np.testing.assert_allclose(aux.metrics["dm"], dm, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["regression"], kd, rtol=1e-5)
    np.testing.assert_allclose(value, dm + 0.5 * kd, rtol=1e-4)


def test_fake_score_loss_by_hand():
    phases, context = build()
    (value, _), grads = value_and_grad(phases["fake_score"], context)
    assert set(grads) == {"fake_score"}
    x = np.asarray(context.batch["x_gen"], np.float64)
    sigma = levels()[np.asarray(rng.randint(KEYS, "t", 1000))]
    x_t, t = noised(x, sigma)
    x0_hat = NET.apply(context.nets["fake_score"], x_t, t, context.batch["y_gen"])
    error = ((np.asarray(x0_hat, np.float64) - x) ** 2).mean((1, 2, 3))
    expected = ((1 / sigma**2 + 4) * error).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-3)


def test_only_the_pairs_move_a_student_whose_score_is_the_teachers():
    phases, context = build(COSINE)
    nets = dict(context.nets, fake_score=context.frozen["teacher"])
    (value, aux), grads = value_and_grad(phases["student"], context._replace(nets=nets))
    assert aux.metrics["dm"] == 0
    np.testing.assert_allclose(value, 0.25 * aux.metrics["regression"], rtol=1e-6)

    def regression(params):
        batch = context.batch
        x0_hat = NET.apply(params, batch["z"], jnp.ones(8), batch["y"])
        return 0.25 * jnp.mean((x0_hat - batch["x0"]) ** 2)

    expected = jax.grad(regression)(context.nets["student"])
    for name, leaf in grads["student"].items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-4, atol=1e-8)


def test_regression_by_lpips_moves_the_student(tmp_path, monkeypatch):
    """With files in the published layouts, and images of 16 pixels for VGG's 224."""
    weights, heads = lpips_files.write(tmp_path)
    small = functools.partial(lpips.distance, resize=16)
    monkeypatch.setattr(lpips, "distance", small)
    shape = (8, 8, 3)

    def apply(params, x_t, t, y):
        del t, y
        return jnp.tanh(params["w"] * x_t)

    net = Net(lambda key: {"w": jnp.float32(0.5)}, apply, None, shape, 10)
    method = methods.make(
        "dmd",
        nets={"student": net, "teacher": net},
        process=COSINE,
        distance="lpips",
        lpips_weights=str(weights),
        lpips_heads=str(heads),
        regression_weight=0.5,
    )
    assert method.frozen == ("teacher", "lpips")
    x0, z = jax.random.uniform(jax.random.key(3), (2, 2, *shape), minval=-1.0)
    batch = {"x0": x0, "z": z, "y": jnp.zeros(2, jnp.int32)}
    params = {role: net.init(KEYS[0]) for role in method.nets}  # so that dm is 0
    frozen = {"teacher": net.init(KEYS[0]), "lpips": lpips.load("vgg", weights, heads)}
    shapes = jax.eval_shape(lambda: frozen["lpips"])
    chex.assert_trees_all_equal(shapes, method.pretrained["lpips"].shapes)
    chex.assert_trees_all_equal(frozen["lpips"], method.pretrained["lpips"].read())
    context = Context(params, params, frozen, {}, batch, KEYS[:2], toy.SHARE)
    context = context._replace(batch=method.prepare(context))
    distance, apart = small, frozen["lpips"]

    @jax.jit
    def run(student, context, apart):
        loss, of_student = method.phases[0].loss, {"student": student}
        (_, aux), grads = jax.value_and_grad(loss, has_aux=True)(of_student, context)

        def expected(student):
            return distance(apart, apply(student, z, None, None), x0).mean()

        return aux.metrics, grads["student"], jax.value_and_grad(expected)(student)

    metrics, grads, (value, grad) = run(params["student"], context, apart)
    assert metrics["dm"] == 0 and value > 0
    np.testing.assert_allclose(metrics["regression"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.5 * value, rtol=1e-5)
    np.testing.assert_allclose(grads["w"], 0.5 * grad["w"], rtol=1e-4)
    assert abs(grad["w"]) > 1e-3


def test_phases_alternate_and_read_pairs():
    method = methods.make("dmd", nets=toy.NETS, process=COSINE)
    assert [(p.name, p.trains, p.every) for p in method.phases] == [
        ("student", ("student",), 1),
        ("fake_score", ("fake_score",), 1),
    ]
    assert method.batch_keys == ("z", "x0", "y")


def test_unusable_distances_are_refused():
    with pytest.raises(ConfigError, match="distance='l7'; choose l2 or lpips"):
        build(distance="l7")
    with pytest.raises(ConfigError, match="LPIPS needs its file"):
        build(distance="lpips")
