"""One-step students of a Gaussian mixture in the plane, whose score is known.

The student must have all modes, with their weights and in their places. Images are 1x1
pixels of two channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kdiff_jax import domain, methods, rng, samplers
from kdiff_jax.diffusion import process as processes
from kdiff_jax.diffusion.process import broadcast_left
from kdiff_jax.losses import distribution
from kdiff_jax.method import Net
from kdiff_jax.train import optim
from kdiff_jax.train.state import init_state, without_axis
from kdiff_jax.train.step import due, make_train_step

# Neighbours are 4.5 STD apart. A student is a continuous map, so that some of its
# points lie on bridges; a mixture has a few there as well, and `by_mode` allows them.
MEANS = np.array([[0.8, -0.09], [-0.8, 0.81], [-0.8, -0.99]], np.float32)
WEIGHTS = np.array([0.5, 0.3, 0.2], np.float32)
STD = 0.4
PROCESS = processes.edm(sigma_min=0.1, sigma_max=3.0)
SHAPE, WIDTH = (1, 1, 2), 64
# The suite compiles quickly; here the running costs more.
FAST = {
    "xla_backend_optimization_level": 2,
    "xla_llvm_disable_expensive_passes": False,
}


def terms(x_t, t, means=MEANS):
    """(share[N, 3] of each mode, x_t's offset[N, 3, 2] from it, its variance[N, 1])."""
    variance = STD**2 + t[:, None] ** 2
    offset = x_t.reshape(-1, 1, 2) - means[None]
    logits = jnp.log(WEIGHTS)[None] - 0.5 * (offset**2).sum(-1) / variance
    return jax.nn.softmax(logits), offset, variance


def posterior_mean(x_t, t, means=MEANS):
    """E[x0 | x_t] of the mixture, exactly."""
    share, offset, variance = terms(x_t, t, means)
    component = means[None] + (STD**2 / variance)[..., None] * offset
    return (share[..., None] * component).sum(1).reshape(x_t.shape)


def features(x_t, t):
    """f[N, 18]: the place at unit scale, and fixed waves of it; no mode is known."""
    x = x_t.reshape(-1, 2) / jnp.sqrt(1 + t**2)[:, None]
    first, second = jax.random.split(jax.random.key(12))
    w = 2 * jax.random.normal(first, (2, 16))
    b = 2 * jnp.pi * jax.random.uniform(second, (16,))
    return jnp.concatenate([x, jnp.sin(x @ w + b[None])], axis=1)


def layers(key, *sizes, last):
    """Linear layers; the last one's kernel is scaled by `last`."""
    keys = jax.random.split(key, len(sizes) - 1)
    scales = [1.0] * (len(sizes) - 2) + [last]
    return [
        {"w": scale * jax.random.normal(k, (a, b)) / a**0.5, "b": jnp.zeros(b)}
        for k, a, b, scale in zip(keys, sizes, sizes[1:], scales, strict=False)
    ]


def linear(layer, h):
    return h @ layer["w"] + layer["b"][None]


def hidden(params, h):
    for layer in params:
        h = jax.nn.silu(linear(layer, h))
    return h


def exact_plus_correction() -> Net:
    """The teacher, whose correction is 0; the fake score learns another one."""

    def init(key):
        return layers(key, 20, WIDTH, WIDTH, 2, last=0.0)

    def read(params, x_t, t):
        time = jnp.stack([jnp.log(t), 1 / (1 + t)], axis=1)
        return hidden(params[:-1], jnp.concatenate([features(x_t, t), time], axis=1))

    def apply(params, x_t, t, y):
        del y
        correction = linear(params[-1], read(params, x_t, t)).reshape(x_t.shape)
        return (
            posterior_mean(x_t, t)
            + broadcast_left(t / jnp.sqrt(1 + t**2), x_t) * correction
        )

    def encode(params, x_t, t, y):
        """DMD2's discriminator reads the last map but one."""
        del y
        h = read(params, x_t, t)
        return [h.reshape(-1, 2, 2, WIDTH // 4), h.reshape(-1, 1, 1, WIDTH)]

    return Net(init, apply, encode, SHAPE)


def waves() -> Net:
    """The student: z, and a network whose first layer are waves of all phases."""

    def init(key):
        first, second, third = jax.random.split(key, 3)
        waves = {
            "w": 1.5 * jax.random.normal(first, (2, WIDTH)),
            "b": 2 * jnp.pi * jax.random.uniform(second, (WIDTH,)),
        }
        return [waves, *layers(third, WIDTH, WIDTH, WIDTH, 2, last=0.1)]

    def apply(params, x_t, t, y):
        del y
        z = x_t.reshape(-1, 2) / t[:, None]
        h = hidden(params[1:-1], jnp.sqrt(2) * jnp.sin(linear(params[0], z)))
        return (0.8 * z + linear(params[-1], h)).reshape(x_t.shape)

    return Net(init, apply, None, SHAPE)


def random_network(params, x_t, t, y):
    """Maps of an encoder that knows nothing of the mixture: two layers, drawn once."""
    del params, t, y
    first, second = layers(jax.random.key(11), 2, WIDTH, WIDTH, last=1.0)
    h = jnp.sin(2 * linear(first, x_t.reshape(-1, 2)) + jnp.linspace(0, 6, WIDTH)[None])
    deeper = jax.nn.silu(linear(second, h))
    return [h.reshape(-1, 1, 1, WIDTH), deeper.reshape(-1, 1, 1, WIDTH)]


TEACHER, STUDENT = exact_plus_correction(), waves()
TEACHER_OF_GDD = TEACHER._replace(encode=random_network)


def pairs():
    """(z, x0) of the teacher's flow."""
    sampler = samplers.make("heun", process=PROCESS, num_steps=16)
    z = jax.random.normal(jax.random.key(5), (4096, *SHAPE))
    return z, sampler.sample(lambda x_t, t, y: posterior_mean(x_t, t), z)


def draw_mixture(key, num):
    first, second = jax.random.split(key)
    mode = jax.random.choice(first, 3, (num,), p=WEIGHTS)
    x = jnp.asarray(MEANS)[mode] + STD * jax.random.normal(second, (num, 2))
    return x.reshape(num, *SHAPE)


def train(
    name,
    num_steps,
    teacher=TEACHER,
    lr=2e-3,
    b2=0.999,
    disc_schedule="cosine",
    batch_size=512,
    seed=0,
    **options,
):
    """The student's samples, f32[N, 2], and the metrics of the first step."""
    nets = {"student": STUDENT, "teacher": teacher}
    method = methods.make(name, nets=nets, process=PROCESS, **options)
    rates = {"student": lr, "fake_score": 4e-3, "disc": 2e-3}
    updates = {
        role: optim.make(
            lr=rates[role],
            batch_size=batch_size,
            b1=0.0,
            b2=b2,
            schedule=disc_schedule if role == "disc" else "cosine",
            # The average forgets the start: it spans a twentieth of the run.
            ema_half_life=1e12,
            ema_ramp_up=0.05,
        )
        for role in method.nets
    }
    frozen = {"teacher": teacher.init(jax.random.key(seed))}
    given = frozen | {"student": STUDENT.init(jax.random.key(seed + 1))}
    state = init_state(method, updates, given, jax.random.key(seed + 2))
    share = domain.whole(0, (PROCESS.t_min, PROCESS.t_max))
    numbers = toy.numbers(method, num_steps, share)
    stored = pairs() if "z" in method.batch_keys else None

    def program(phases):
        step = make_train_step(method, updates, phases)

        def run(state):
            keys = rng.example_keys(
                jax.random.key(seed + 3), state.step[0], jnp.arange(batch_size)
            )
            batch = {"y": jnp.zeros(batch_size, jnp.int32)}
            if stored:
                index = rng.randint(keys, "index", len(stored[0]))
                batch |= {"z": stored[0][index], "x0": stored[1][index]}
            else:
                key = jax.random.fold_in(jax.random.key(seed + 4), state.step[0])
                batch["x0"] = draw_mixture(key, batch_size)
            return step(state, frozen, numbers, batch, keys)

        return jax.jit(run, compiler_options=FAST)

    programs: dict[Any, Any] = {}
    first: Any = None
    for i in range(num_steps):
        phases = due(method.phases, i)
        if phases not in programs:
            programs[phases] = program(phases)
        state, metrics = programs[phases](state)
        first = first or metrics
    z = jax.random.normal(jax.random.key(99), (50_000, *SHAPE))
    t = jnp.full(len(z), PROCESS.t_max)
    ema = without_axis(state.nets["student"].ema["ema"])
    x = STUDENT.apply(ema, PROCESS.z_scale * z, t, None)
    return np.asarray(x).reshape(-1, 2), first


def by_mode(x):
    """(share[4], mean[3, 2]) of the points nearest to each mode.

    Points that are 4 STD from all modes are the last share.
    """
    distance = np.linalg.norm(x[:, None] - MEANS, axis=-1)
    mode = np.where(distance.min(1) < 4 * STD, distance.argmin(1), 3)
    means = np.stack([x[mode == i].mean(0) for i in range(3)])
    return np.bincount(mode, minlength=4) / len(x), means


def errors(x):
    """(total variation of the shares, f[3] of the means in STD).

    Both against true points told apart in the same way: the nearest mode is the wrong
    one for 2 % of them, which moves the shares by 0.5 % and the means by 0.03 STD.
    """
    true = np.asarray(draw_mixture(jax.random.key(7), 400_000)).reshape(-1, 2)
    (share, means), (true_share, true_means) = by_mode(x), by_mode(true)
    off = np.linalg.norm(means - true_means, axis=-1) / STD
    return 0.5 * np.abs(share - true_share).sum(), off


MATCHING = dict(num_steps=2500, lr=1e-3, student_every=2)
CASES: dict[str, Any] = {
    "dmd": dict(num_steps=1000),
    # At twice the rate the rarest mode of some seeds is 0.14 off.
    "dmd2": MATCHING | dict(lr=5e-4, gan_weight=0.0),
    # Of half as many steps the rarest mode is 0.05 to 0.13 off, by the seed; of these
    # 0.03 to 0.06.
    "dmd2 with a discriminator": MATCHING
    | dict(lr=5e-4, num_steps=5000, head_groups=4),
    # The two circle the answer. A student that slows down while its discriminator does
    # not comes to rest; where both slow down, they stop wherever they are.
    "gdd": dict(
        num_steps=900,
        teacher=TEACHER_OF_GDD,
        lr=1e-3,
        b2=0.99,
        disc_schedule="constant",
        batch_size=256,
        noise_levels=(0.1,),
        width=32,
        r1_weight=0.1,
        r1_every=4,
    ),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case == "dmd2" else pytest.mark.slow)
        for case in CASES
    ],
)
def test_student_has_all_modes_with_their_weights_and_means(case):
    x, _ = train(case.split()[0], **CASES[case])
    total_variation, off = errors(x)
    assert total_variation < 0.05
    assert off.max() < 0.1


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
