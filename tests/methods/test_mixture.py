"""One-step students of a Gaussian mixture in the plane, whose score is known.

The student must have all modes, with their weights. Images are 1x1 pixels of two
channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax import methods, rng, samplers
from kdiff_jax.diffusion import process as processes
from kdiff_jax.diffusion.process import left
from kdiff_jax.losses import distribution
from kdiff_jax.method import Net
from kdiff_jax.train import optim
from kdiff_jax.train.step import due, init_state, make_train_step

MEANS = np.array([[1.0, 0.0], [-0.6, 0.9], [-0.6, -0.9]], np.float32)
WEIGHTS = np.array([0.5, 0.3, 0.2], np.float32)
STD = 0.25
PROCESS = processes.edm(sigma_min=0.02, sigma_max=5.0)
SHAPE, WIDTH, BATCH, NUM_STEPS = (1, 1, 2), 64, 256, 3000
NUM_PIECES, SHARPNESS = 8, 30.0
# The suite compiles quickly; here the running costs more.
FAST = {
    "xla_backend_optimization_level": 2,
    "xla_llvm_disable_expensive_passes": False,
}


def posterior_mean(x_t, t, means=MEANS):
    """E[x0 | x_t] of the mixture, exactly."""
    variance = STD**2 + t[:, None] ** 2
    offset = x_t.reshape(-1, 1, 2) - means[None]
    logits = jnp.log(WEIGHTS)[None] - 0.5 * (offset**2).sum(-1) / variance
    component = means[None] + (STD**2 / variance)[..., None] * offset
    share = jax.nn.softmax(logits)[..., None]
    return (share * component).sum(1).reshape(x_t.shape)


def mlp(last: float) -> Net:
    """Three layers on (x_t, t); those of `last` 0 answer 0."""

    def init(key):
        sizes = [(4, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, 2)]
        scales = [1.0, 1.0, 1.0, last]
        keys = jax.random.split(key, 4)
        return [
            {
                "w": scale * jax.random.normal(k, size) / size[0] ** 0.5,
                "b": jnp.zeros(size[1]),
            }
            for k, size, scale in zip(keys, sizes, scales, strict=True)
        ]

    def hidden(params, x_t, t):
        t = t[:, None]
        h = x_t.reshape(-1, 2) / jnp.sqrt(1 + t**2)
        h = jnp.concatenate([h, jnp.log(t), 1 / (1 + t)], axis=1)
        for layer in params[:-1]:
            h = jax.nn.silu(h @ layer["w"] + layer["b"][None])
        return h

    def apply(params, x_t, t, y):
        del y
        h = hidden(params, x_t, t)
        return (h @ params[-1]["w"] + params[-1]["b"][None]).reshape(x_t.shape)

    def encode(params, x_t, t, y):
        del y
        h = hidden(params, x_t, t)
        return [h.reshape(-1, 2, 2, WIDTH // 4), h.reshape(-1, 1, 1, WIDTH)]

    return Net(init, apply, encode, SHAPE)


CORRECTION = mlp(last=0.0)


def exact_plus_correction(params, x_t, t, y):
    """The teacher, whose correction is 0; the fake score learns another one."""
    scale = left(t / jnp.sqrt(1 + t**2), x_t)
    return posterior_mean(x_t, t) + scale * CORRECTION.apply(params, x_t, t, y)


TEACHER = CORRECTION._replace(apply=exact_plus_correction)
STUDENT = mlp(last=1.0)


def pieces() -> Net:
    """A student that is a soft choice between smooth maps, which can tear the plane.

    A smooth map alone leaves too many points on the bridges between the modes, and
    these pull the means of the modes inwards.
    """

    def init(key):
        sizes = [(2, WIDTH), (WIDTH, WIDTH), (WIDTH, NUM_PIECES)]
        sizes += [(WIDTH, 2 * NUM_PIECES)]
        keys = jax.random.split(key, len(sizes))
        return [
            {"w": jax.random.normal(k, s) / s[0] ** 0.5, "b": jnp.zeros(s[1])}
            for k, s in zip(keys, sizes, strict=True)
        ]

    def apply(params, x_t, t, y):
        del y
        x = x_t.reshape(-1, 2) / jnp.sqrt(1 + t[:, None] ** 2)
        *body, choice, value = params
        for layer in body:
            x = jax.nn.silu(x @ layer["w"] + layer["b"][None])
        share = jax.nn.softmax(SHARPNESS * (x @ choice["w"] + choice["b"][None]))
        value = (x @ value["w"] + value["b"][None]).reshape(-1, NUM_PIECES, 2)
        return (share[..., None] * value).sum(1).reshape(x_t.shape)

    return Net(init, apply, None, SHAPE)


def pairs(num):
    """(z, x0) of the teacher's flow."""
    params = TEACHER.init(jax.random.key(0))
    sampler = samplers.make("heun", process=PROCESS, num_steps=16)
    z = jax.random.normal(jax.random.key(5), (num, *SHAPE))
    x0 = sampler.sample(lambda x_t, t, y: TEACHER.apply(params, x_t, t, y), z)
    return z, x0


def draw_mixture(key, num):
    first, second = jax.random.split(key)
    mode = jax.random.choice(first, 3, (num,), p=WEIGHTS)
    x = jnp.asarray(MEANS)[mode] + STD * jax.random.normal(second, (num, 2))
    return x.reshape(num, *SHAPE)


def train(
    name,
    num_steps=NUM_STEPS,
    lr=2e-3,
    seed=0,
    student=STUDENT,
    batch_size=BATCH,
    b1=0.5,
    options=None,
    **keywords,
):
    """The student's samples, f32[N, 2], and the metrics of the first step."""
    nets = {"student": student, "teacher": TEACHER}
    method = methods.make(name, nets=nets, process=PROCESS, **keywords)
    rates = {"student": lr, "fake_score": 2 * lr, "disc": lr}
    updates = {
        role: optim.make(
            lr=rates[role],
            batch_size=batch_size,
            b1=b1,
            schedule="cosine",
            ema_decay=0.99,
        )
        for role in method.nets
    }
    frozen = {"teacher": TEACHER.init(jax.random.key(seed))}
    given = frozen | {"student": student.init(jax.random.key(seed + 1))}
    state = init_state(method, updates, given, jax.random.key(seed + 2))
    settings = {"num_train_steps": jnp.int32(num_steps), **method.settings}
    stored = pairs(4096) if "z" in method.batch_keys else None

    def program(phases):
        step = make_train_step(method, updates, phases)

        def run(state):
            keys = rng.example_keys(
                jax.random.key(seed + 3), state.step, jnp.arange(batch_size)
            )
            batch = {"y": jnp.zeros(batch_size, jnp.int32)}
            if stored:
                index = rng.randint(keys, "index", len(stored[0]))
                batch |= {"z": stored[0][index], "x0": stored[1][index]}
            else:
                key = jax.random.fold_in(jax.random.key(seed + 4), state.step)
                batch["x0"] = draw_mixture(key, batch_size)
            return step(state, frozen, settings, batch, keys)

        return jax.jit(run, compiler_options=options)

    programs: dict[Any, Any] = {}
    first: Any = None
    for i in range(num_steps):
        phases = due(method.phases, i)
        if phases not in programs:
            programs[phases] = program(phases)
        state, metrics = programs[phases](state)
        first = first or metrics
    z = jax.random.normal(jax.random.key(99), (20_000, *SHAPE))
    t = jnp.full(len(z), PROCESS.t_max)
    x = student.apply(state.nets["student"].ema, PROCESS.z_scale * z, t, None)
    return np.asarray(x).reshape(-1, 2), first


def modes(x):
    """i[N], the mode that a point belongs to; 3 where it is 4 STD from all."""
    distance = np.linalg.norm(x[:, None] - MEANS, axis=-1)
    return np.where(distance.min(1) < 4 * STD, distance.argmin(1), 3)


def total_variation(x):
    """Between the shares of the modes and their weights."""
    share = np.bincount(modes(x), minlength=4) / len(x)
    return 0.5 * np.abs(share - np.append(WEIGHTS, 0)).sum()


def mean_errors(x):
    """f[3], how far the mean of the points of a mode is from its own, in STD."""
    found = modes(x)
    means = np.stack([x[found == i].mean(0) for i in range(3)])
    return np.linalg.norm(means - MEANS, axis=-1) / STD


CASES: dict[str, Any] = {
    "dmd2": dict(student_every=2, gan_weight=0.0),
    "dmd2 with a discriminator": dict(student_every=2, gan_weight=1e-2, head_groups=4),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if "discriminator" in case else ())
        for case in CASES
    ],
)
def test_student_has_all_modes_with_their_weights(case):
    x, _ = train(case.split()[0], **CASES[case])
    assert total_variation(x) < 0.05


def test_dmd_has_all_modes_with_their_weights_and_means():
    x, _ = train(
        "dmd",
        num_steps=2500,
        student=pieces(),
        batch_size=1024,
        b1=0.0,
        options=FAST,
    )
    assert total_variation(x) < 0.05
    assert mean_errors(x).max() < 0.1


@pytest.mark.parametrize("weight", distribution.WEIGHTS)
@pytest.mark.parametrize("t", [0.05, 0.3, 1.0, 4.0])
def test_gradient_is_0_for_the_same_mixture_and_points_from_a_moved_one_back(t, weight):
    """The student's images are those of a mixture that is off by `offset`."""
    offset = np.array([0.1, -0.06], np.float32)
    x = draw_mixture(jax.random.key(0), 4096) + offset[None, None, None]
    eps = jax.random.normal(jax.random.key(1), x.shape)
    times = jnp.full(len(x), t)

    def gradient(real, fake):
        return distribution.gradient(
            lambda x_t, t: posterior_mean(x_t, t, MEANS + real),
            lambda x_t, t: posterior_mean(x_t, t, MEANS + fake),
            x,
            times,
            eps,
            process=PROCESS,
            weight=weight,
        )

    np.testing.assert_array_equal(gradient(offset, offset), np.zeros_like(x))
    step = -np.asarray(gradient(0 * offset, offset)).reshape(-1, 2).mean(0)
    cosine = -step @ offset / np.linalg.norm(step) / np.linalg.norm(offset)
    assert cosine > 0.9


def test_a_student_stands_still_while_its_fake_score_is_the_teacher():
    """The first step of DMD2, whose fake score starts as a copy."""
    _, metrics = train("dmd2", num_steps=1, gan_weight=0.0)
    assert metrics["student/grad_norm"] == 0
