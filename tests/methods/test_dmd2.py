"""DMD2's phases by hand, who moves whom, and the student's own intermediate steps."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import one_student
import optax
import pytest
import toy
from tolerance import REORDER

from kdiff_jax import methods, rng, samplers
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Context
from kdiff_jax.methods.dmd2 import PLACES, simulate
from kdiff_jax.train.state import Optim, init_state
from kdiff_jax.train.step import make_train_step

EDM, COSINE = processes.edm(), processes.cosine()
encode: Any = toy.NETS["teacher"].encode
KEYS = rng.example_keys(jax.random.key(0), 0, jnp.arange(8))


def build(process=COSINE, seed=0, **keywords):
    """(phases by name, context with three different denoisers, method)."""
    method = methods.make("dmd2", nets=toy.NETS, process=process, **keywords)
    keys = jax.random.split(jax.random.key(seed), 4)
    params = {
        role: net.init(key)
        for (role, net), key in zip(method.nets.items(), keys, strict=False)
    }
    frozen = {"teacher": toy.NETS["teacher"].init(keys[3])}
    context = Context(params, params, frozen, {}, toy.batch(0), KEYS, toy.SHARE)
    context = context._replace(batch=method.prepare(context))
    return {phase.name: phase for phase in method.phases}, context, method


def value_and_grad(phase, context):
    params = {role: context.nets[role] for role in phase.trains}
    return jax.value_and_grad(phase.loss, has_aux=True)(params, context)


def test_prepared_images_are_the_students_at_the_noise_end():
    _, context, _ = build(EDM)
    batch = context.batch
    z = rng.normal(KEYS, "z", toy.SHAPE)
    np.testing.assert_allclose(batch["x_t"], 80.0 * z, rtol=1e-6)
    np.testing.assert_array_equal(batch["t"], np.full(8, 80.0, np.float32))
    expected = toy.NETS["student"].apply(
        context.nets["student"], batch["x_t"], batch["t"], batch["y_gen"]
    )
    np.testing.assert_allclose(batch["x_gen"], expected, rtol=1e-6)
    assert (batch["y_gen"] != batch["y"]).any()


def test_labels_asked_for_are_uniform_and_real_ones_are_kept():
    _, context, method = build()
    many = rng.example_keys(jax.random.key(4), 0, jnp.arange(4000))
    made = method.prepare(context._replace(keys=many, batch={"y": 7}))
    counts = np.bincount(made["y_gen"], minlength=10)
    assert counts.min() > 320 and counts.max() < 480 and len(counts) == 10
    assert made["y"] == 7


def test_the_head_reads_the_middle_or_what_comes_before_it():
    found = ["fine", "coarse", "middle"]
    assert found[PLACES["encoder"]] == "coarse" and found[PLACES["middle"]] == "middle"


def test_student_loss_by_hand():
    phases, context, _ = build(EDM, gan_weight=0.25, diffusion_gan=False)
    batch, y = context.batch, context.batch["y_gen"]
    net, x = toy.NETS["teacher"], np.asarray(context.batch["x_gen"], np.float64)
    (value, aux), _ = value_and_grad(phases["student"], context)

    # The same draws: index 20 .. 980 of the 1000 levels of Karras et al., rho = 7.
    i = np.arange(1000) / 999
    levels = (0.002 ** (1 / 7) + i * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    t = levels[20:981][np.asarray(rng.randint(KEYS, "t", 961))]
    eps = rng.normal(KEYS, "eps", toy.SHAPE)
    x_t = jnp.asarray(x + t[:, None, None, None] * eps, jnp.float32)
    t = jnp.asarray(t, jnp.float32)
    real = np.asarray(net.apply(context.frozen["teacher"], x_t, t, y), np.float64)
    fake = np.asarray(net.apply(context.nets["fake_score"], x_t, t, y), np.float64)
    g = (fake - real) / np.abs(x - real).mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(aux.metrics["dm"], 0.5 * (g**2).mean(), rtol=1e-4)

    t = jnp.full(8, 0.002)
    h = encode(context.nets["fake_score"], batch["x_gen"], t, y)[0]
    logits = build(EDM)[2].nets["disc"].apply(context.nets["disc"], h)
    fooled = np.log1p(np.exp(-np.asarray(logits))).mean()
    np.testing.assert_allclose(aux.metrics["gan"], fooled, rtol=1e-5)
    np.testing.assert_allclose(value, 0.5 * (g**2).mean() + 0.25 * fooled, rtol=1e-4)


def test_forward_kl_by_hand():
    """An example is weighted by r of its own x_t, and the mean weight is 1."""
    plain, context, _ = build()
    phases, weighted, method = build(f_divergence="forward_kl")
    assert [phase.name for phase in method.phases] == ["weight", "student", "guidance"]
    batch, net = weighted.batch, toy.NETS["teacher"]
    # The same draws as those of the distribution matching itself.
    t, eps = batch["t_dm"], batch["eps_dm"]
    np.testing.assert_array_equal(eps, context.batch["eps_dm"])
    alpha, sigma = (f(t)[:, None, None, None] for f in (COSINE.alpha, COSINE.sigma))
    x_t, y = alpha * batch["x_gen"] + sigma * eps, batch["y_gen"]
    h = encode(context.nets["fake_score"], x_t, t, y)[0]
    r = np.exp(np.asarray(method.nets["disc"].apply(context.nets["disc"], h)))
    np.testing.assert_allclose(batch["h"], r, rtol=1e-4)
    assert r.std() > 1e-3

    mean, aux = phases["weight"].loss({}, weighted)
    np.testing.assert_allclose(mean, r.mean(), rtol=1e-5)
    real = net.apply(context.frozen["teacher"], x_t, t, y)
    fake = net.apply(context.nets["fake_score"], x_t, t, y)
    x = batch["x_gen"]
    g = (fake - real) / jnp.abs(x - real).mean((1, 2, 3), keepdims=True)
    errors = 0.5 * np.asarray(g**2).mean((1, 2, 3))
    (_, found), _ = value_and_grad(
        phases["student"], weighted._replace(carry=aux.carry)
    )
    expected = (errors * r / r.mean()).mean()
    np.testing.assert_allclose(found.metrics["dm"], expected, rtol=1e-4)
    (_, unweighted), _ = value_and_grad(plain["student"], context)
    np.testing.assert_allclose(unweighted.metrics["dm"], errors.mean(), rtol=1e-4)


def test_the_mean_weight_is_that_of_the_global_batch():
    method = methods.make(
        "dmd2", nets=toy.NETS, process=COSINE, f_divergence="forward_kl"
    )
    sgd = Optim(optax.identity(), lambda step, n: 1.0, toy.EMAS)
    optim = {role: sgd for role in method.nets}
    frozen = {"teacher": toy.NETS["teacher"].init(jax.random.key(7))}
    others = {
        role: toy.NETS["teacher"].init(jax.random.key(i))
        for i, role in enumerate(("student", "fake_score"))
    }
    start = init_state(method, optim, frozen | others, jax.random.key(0))
    numbers = toy.numbers(method, 100)

    def result(num_devices, num_microbatches):
        step = make_train_step(
            method,
            optim,
            method.phases,
            axis_name="data",
            num_microbatches=num_microbatches,
        )
        return one_student.train(
            step,
            jax.devices()[:num_devices],
            start,
            frozen=frozen,
            numbers=numbers,
            batch=toy.batch(0),
            key=jax.random.key(1),
        )

    (one, metrics), (other, _) = result(1, 1), result(2, 2)
    assert metrics["weight/mean"] == one.carry["mean_h"] != 1
    chex.assert_trees_all_close(other.nets, one.nets, **REORDER)
    chex.assert_trees_all_close(other.carry, one.carry, **REORDER)


@pytest.mark.parametrize(
    "keywords",
    [dict(gan_weight=0.0), dict(diffusion_gan=False), dict(gan_loss="hinge")],
)
def test_divergences_need_logits_that_are_log_ratios(keywords):
    with pytest.raises(ConfigError, match="f_divergence='jeffreys': needs a discrim"):
        build(f_divergence="jeffreys", **keywords)
    build(f_divergence="reverse_kl", **keywords)


def test_a_perfect_fake_score_leaves_the_student_alone():
    phases, context, _ = build(gan_weight=0.0)
    nets = dict(context.nets, fake_score=context.frozen["teacher"])
    (value, _), grads = value_and_grad(phases["student"], context._replace(nets=nets))
    assert value == 0
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_both_terms_move_the_student_and_both_losses_the_guidance():
    phases, context, _ = build()
    _, grads = value_and_grad(phases["student"], context)
    assert set(grads) == {"student"}
    _, grads = value_and_grad(phases["guidance"], context)
    assert set(grads) == {"fake_score", "disc"}
    # The encoder learns from the discriminator's loss too.
    alone = build(gan_weight=0.0)[0]["guidance"]
    params = {"fake_score": context.nets["fake_score"]}
    without = jax.grad(alone.loss, has_aux=True)(params, context)[0]
    assert (grads["fake_score"]["w"] != without["fake_score"]["w"]).any()
    # Its decoder does not.
    np.testing.assert_allclose(
        grads["fake_score"]["v"], without["fake_score"]["v"], rtol=1e-5
    )


def test_features_of_the_teacher_leave_the_fake_score_to_its_own_loss():
    phases, context, _ = build(features="teacher")
    _, grads = value_and_grad(phases["guidance"], context)
    alone = build(gan_weight=0.0)[0]["guidance"]
    params = {"fake_score": context.nets["fake_score"]}
    without = jax.grad(alone.loss, has_aux=True)(params, context)[0]
    for name in ("w", "v"):
        np.testing.assert_allclose(
            grads["fake_score"][name], without["fake_score"][name], rtol=1e-5
        )
    assert any(leaf.any() for leaf in jax.tree.leaves(grads["disc"]))


def test_real_and_generated_images_meet_the_discriminator_with_their_own_labels():
    """Swapping the real labels changes its loss, swapping the images' does too."""
    phases, context, _ = build()
    params = {role: context.nets[role] for role in ("fake_score", "disc")}

    def disc_loss(**changes):
        ctx = context._replace(batch={**context.batch, **changes})
        return phases["guidance"].loss(params, ctx)[1].metrics["disc"]

    base = disc_loss()
    for key in ("y", "y_gen"):
        assert disc_loss(**{key: (context.batch[key] + 1) % 10}) != base
    # Real and generated images, equal, still get noise of their own.
    same = disc_loss(x0=context.batch["x_gen"], y=context.batch["y_gen"])
    clean = build(diffusion_gan=False)
    again = (
        clean[0]["guidance"]
        .loss(
            params,
            context._replace(
                batch={
                    **context.batch,
                    "x0": context.batch["x_gen"],
                    "y": context.batch["y_gen"],
                }
            ),
        )[1]
        .metrics["disc"]
    )
    assert np.isfinite(same) and same != again


def test_backward_simulation_is_the_students_own_path():
    times, z = [1.0, 0.5, 0.25], rng.normal(KEYS, "z", toy.SHAPE)
    x_t, t = simulate(lambda x, t: 0.5 * x, z, KEYS, times, process=COSINE)
    chosen = np.asarray(rng.randint(KEYS, "step", 3))
    assert set(chosen) == {0, 1, 2}
    draw, path = samplers.step_noise(KEYS, None, z), [z]
    for i in (1, 2):
        t_i = jnp.full(8, times[i])
        path.append(COSINE.add_noise(0.5 * path[-1], draw(i - 1), t_i))
    np.testing.assert_array_equal(t, np.array(times, np.float32)[chosen])
    expected = np.stack(path)[chosen, np.arange(8)]
    np.testing.assert_allclose(x_t, expected, rtol=1e-6)


@pytest.mark.parametrize("process", [EDM, COSINE])
def test_a_student_is_sampled_as_it_was_simulated(process):
    """The sampler of as many steps calls the student with what training gave it."""
    _, context, method = build(process, num_steps=3, gan_weight=0.0)
    y, called = context.batch["y_gen"], []

    def student(x_t, t, y):
        jax.debug.callback(lambda *x: called.append(x), x_t, t, ordered=True)
        return toy.NETS["student"].apply(context.nets["student"], x_t, t, y)

    sampler = samplers.make("renoise", process=process, num_steps=3)
    sampler.sample(student, rng.normal(KEYS, "z", toy.SHAPE), y, keys=KEYS)
    jax.effects_barrier()
    chosen = np.asarray(rng.randint(KEYS, "step", 3))
    assert len(called) == 3 and set(chosen) == {0, 1, 2}
    for i, step in enumerate(chosen):
        x_t, t = called[step]
        np.testing.assert_allclose(context.batch["x_t"][i], x_t[i], **REORDER)
        assert context.batch["t"][i] == t[i]


@pytest.mark.parametrize("num_steps", [2, 4])
def test_a_student_of_several_steps_is_asked_at_all_its_times(num_steps):
    _, context, method = build(num_steps=num_steps)
    many = rng.example_keys(jax.random.key(4), 0, jnp.arange(64))
    made = method.prepare(context._replace(keys=many))
    found = np.unique(np.asarray(made["t"]))
    np.testing.assert_allclose(found, np.arange(1, num_steps + 1) / num_steps)


def test_without_a_weight_there_is_no_discriminator():
    _, _, method = build(gan_weight=0.0)
    assert set(method.nets) == {"student", "fake_score"}
    assert method.phases[1].trains == ("fake_score",)


def test_schedule_and_unusable_options():
    _, _, method = build(student_every=5)
    assert [phase.every for phase in method.phases] == [5, 1]
    with pytest.raises(ConfigError, match="choose fake_score or teacher"):
        build(features="student")
    with pytest.raises(ConfigError, match="f_divergence='chi': unknown; choose"):
        build(f_divergence="chi")
    blind = {role: net._replace(encode=None) for role, net in toy.NETS.items()}
    with pytest.raises(ConfigError, match="set gan_weight=0"):
        methods.make("dmd2", nets=blind, process=COSINE)
    methods.make("dmd2", nets=blind, process=COSINE, gan_weight=0.0)
