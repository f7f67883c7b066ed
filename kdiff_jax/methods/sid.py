"""SiD: a one-step student by Score identity Distillation, without data or pairs.

Zhou et al. 2024, arXiv:2404.04057. As in DMD a fake score learns the student's images;
but here the student's gradient flows through both score networks.
"""

import jax.numpy as jnp

from kdiff_jax import denoiser, rng
from kdiff_jax.arguments import NotNegative, Positive, Share
from kdiff_jax.diffusion import grids, noise_levels
from kdiff_jax.diffusion.guidance import Interval
from kdiff_jax.losses import distribution
from kdiff_jax.method import Aux, Method, Phase
from kdiff_jax.samplers import renoise

ROLES = ("fake_score",)  # see `methods.roles`


def make(
    *,
    nets,
    process,
    alpha: float = 1.0,
    sigma_init: Positive = 2.5,
    min_step: Share = 0.0,
    max_step: Share = 0.8,
    spacing: str | None = None,
    fake_times: str = "process",
    fake_weight: str = "edm",
    guidance: NotNegative = 1.0,
    guidance_interval: Interval | None = None,
) -> Method:
    """The fake score's update, then the student's, each with images of its own.

    Args:
        nets: {"student": Net, "teacher": Net}.
        process: The forward process.
        alpha: See `distribution.score_identity`; 1.0 or 1.2 in the paper.
        sigma_init: sigma / alpha of the noise from which the student starts, and which
            it is told. Its sampler is `renoise` with the same, and the stage takes no
            other.
        min_step, max_step: Range of the time grid on which the two scores are compared,
            as fractions of its length.
        spacing: Spacing of that grid, see `grids.make`; None for the process' own.
        fake_times: Distribution of t in the fake score's training, see
            `noise_levels.make`; "edm" in the paper.
        fake_weight: See `regression.weight`; that of the teacher's training.
        guidance: Classifier-free guidance of the teacher, see `denoiser.guided`;
            the fake score has none.
        guidance_interval: Noise levels at which it acts; None for all.

    Raises:
        ConfigError: If a time is none of the process.

    Source: arXiv:2404.04057, Algorithm 1, and released code (EDM: the defaults and
    fake_times="edm"). Theirs differ in two things without effect on Adam's steps or
    with balanced classes: the student's loss is 100 times as large, and labels are
    those of a batch of data, where they are uniform here.

    Examples:
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import cosine
        >>> mlp = networks.make("mlp", out_channels=2, num_classes=4)
        >>> net = denoiser.make(mlp, cosine(), image_shape=(1, 1, 2), num_classes=4)
        >>> nets = {"student": net, "teacher": net}
        >>> method = methods.make("sid", nets=nets, process=cosine())
        >>> [phase.name for phase in method.phases], method.sampler["sigma_init"]
        (['fake_score', 'student'], 2.5)
    """
    student, teacher = nets["student"], nets["teacher"]
    guided = denoiser.guided(teacher, process, guidance, guidance_interval)
    shape = student.image_shape
    inner_time = grids.draw_from(process, low=min_step, high=max_step, spacing=spacing)
    fake_time = noise_levels.make(fake_times, process)
    t_init, scale = renoise.start(process, sigma_init)

    def generate(params, ctx):
        """(images, their labels) of this phase's own noise."""
        z = rng.normal(ctx.keys, "z", shape)
        y = ctx.draw_y(student)
        t = jnp.full(len(z), t_init, jnp.float32)
        return student.apply(params, scale * z, t, y), y

    def fake_loss(params, ctx):
        x, y = generate(ctx.nets["student"], ctx)

        def fake(x_t, t):
            return teacher.apply(params["fake_score"], x_t, t, y)

        t, eps = fake_time(ctx.keys), rng.normal(ctx.keys, "eps", shape)
        value = distribution.fake_score(
            fake, x, t, eps, process=process, weight=fake_weight
        ).mean()
        return value, Aux({"loss": value})

    def student_loss(params, ctx):
        x, y = generate(params["student"], ctx)

        def real(x_t, t):
            return guided.apply(ctx.frozen["teacher"], x_t, t, y)

        def fake(x_t, t):
            return teacher.apply(ctx.nets["fake_score"], x_t, t, y)

        t, eps = inner_time(ctx.keys, "t"), rng.normal(ctx.keys, "eps", shape)
        value = distribution.score_identity(
            real, fake, x, t, eps, process=process, alpha=alpha
        ).mean()
        return value, Aux({"loss": value})

    return Method(
        nets={"student": student, "fake_score": teacher},
        frozen=("teacher",),
        init_from={"student": "teacher", "fake_score": "teacher"},
        phases=(
            Phase("fake_score", ("fake_score",), fake_loss),
            Phase("student", ("student",), student_loss),
        ),
        sampler=dict(name="renoise", num_steps=1, sigma_init=sigma_init),
        draws=("conditions",),
    )
