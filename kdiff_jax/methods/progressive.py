"""One round of progressive distillation: one student step for two of the teacher.

Salimans & Ho 2022, arXiv:2202.00512, Algorithm 2. A recipe chains the rounds; the
number of steps is a setting, not a constant, so that all share one compiled program.
Students that own ranges of the time (O2MKD) are halved each in its own range. Students
that read the strength of their guidance (Meng et al. 2023, arXiv:2210.03142, stage two)
learn from teachers that do, or from one that is guided.
"""

import jax
import jax.numpy as jnp

from kdiff_jax import denoiser, rng
from kdiff_jax.arguments import NotNegative
from kdiff_jax.diffusion import guidance as guidances
from kdiff_jax.diffusion.guidance import Interval
from kdiff_jax.diffusion.process import broadcast_left
from kdiff_jax.errors import ConfigError
from kdiff_jax.losses import regression
from kdiff_jax.method import Aux, Method, Phase

TAKES_TIMES = True  # see `methods.takes_times`
SCORES_PAIRS = True  # see `methods.scores_pairs`
TAKES_GUIDANCE = True  # see `methods.takes_guidance`


def make(
    *,
    nets,
    process,
    weight: str = "snr_trunc",
    guidance: NotNegative = 1.0,
    guidance_interval: Interval | None = None,
) -> Method:
    """E[ weight(logsnr_t) ||x0_target - x0_hat(x_t, t)||^2 ], t = (i + 1) / N.

    Args:
        nets: {"student": Net, "teacher": Net}.
        process: A variance preserving process with times in [0, 1].
        weight: "constant", "snr", "snr_trunc" or "v_mse".
        guidance: Classifier-free guidance of the teacher, see `denoiser.guided`. Of
            several rounds the first has it alone, as its student needs no more. A
            student that reads its guidance (`Net.guidance_range`) is told one that is
            drawn for each example, and the teacher has that one in place of this.
        guidance_interval: Noise levels at which it acts; None for all.

    The one setting is `num_steps`, the N of the student that this round makes. The ends
    of the times that it owns (`Context.share`) are multiples of 1 / N. Its two teacher
    steps begin inside them too, so that the teacher may own the same range.

    Raises:
        ConfigError: If the process has no continuous time in [0, 1], or the teacher
            cannot be guided so.

    Source: arXiv:2202.00512, Algorithm 2; arXiv:2210.03142 for students that read their
    guidance.

    Examples:
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import cosine
        >>> mlp = networks.make("mlp", out_channels=2, num_classes=4)
        >>> net = denoiser.make(mlp, cosine(), image_shape=(1, 1, 2), num_classes=4)
        >>> nets = {"student": net, "teacher": net}
        >>> method = methods.make("progressive", nets=nets, process=cosine())
        >>> method.frozen, list(method.settings)
        (('teacher',), ['num_steps'])
    """
    student, teacher = nets["student"], nets["teacher"]
    if process.num_timesteps or (process.t_min, process.t_max) != (0.0, 1.0):
        raise ConfigError(
            f"process has times from {process.t_min} to {process.t_max};"
            ' progressive distillation halves a grid on [0, 1]: use process "cosine"'
        )
    denoiser.guided(teacher, process, guidance, guidance_interval)  # or refuses it
    denoiser.check_drawn(student, teacher, guidance, guidance_interval)

    def loss(params, ctx):
        x0, y, n = ctx.batch["x0"], ctx.batch["y"], ctx.settings["num_steps"]
        # lo < t <= hi, and t = (i + 1) / N.
        first, last = jnp.round(ctx.share.t_range * n).astype(jnp.int32)
        i = first + rng.randint(ctx.keys, "i", last - first)
        eps = rng.normal(ctx.keys, "eps", x0.shape[1:])

        told, scale = guidances.drawn(ctx.keys, student.guidance_range, guidance)
        guided = denoiser.guided(teacher, process, scale, guidance_interval)

        def denoise(x_t, t):
            return guided.apply(ctx.frozen["teacher"], x_t, t, y)

        x_t, t, target = make_target(denoise, x0, eps, i, n, process=process)
        x0_hat = student.apply(params["student"], x_t, t, y, **told)
        error = regression.mse_per_example(x0_hat, target)
        weighted = (regression.weight(weight, process.logsnr(t)) * error).mean()
        return weighted, Aux({"loss": weighted, "x0_error": error.mean()})

    return Method(
        nets={"student": student},
        frozen=("teacher",),
        init_from={"student": "teacher"},
        phases=(Phase("progressive", ("student",), loss),),
        settings={"num_steps": jnp.int32(1)},
        draws=("t_range",),
    )


def make_target(denoise, x0, eps, i, num_steps, *, process):
    """What one student step must predict to land where two teacher steps do.

    The paper's target, with r_ab = sigma_a / sigma_b and two DDIM steps t -> m -> s,

        x0_target = (x_s - r_st x_t) / (alpha_s - r_st alpha_t),

    is a mean of the teacher's two predictions, once x_s is written out:

        x0_target = x0_t + w (x0_m - x0_t), w = A / (A + B),
        A = alpha_s - r_sm alpha_m, B = r_sm (alpha_m - r_mt alpha_t).

    That form has no difference of nearly equal images in it: at N = 8192 the quotient
    loses three digits, the mean none.

    Args:
        denoise: The teacher, (x_t, t) -> x0_hat.
        x0: f32[B, ...], clean images.
        eps: f32[B, ...], their noise.
        i: i32[B], the interval, in 0 .. N - 1.
        num_steps: i32[], the student's N.
        process: The forward process.

    Returns:
        (x_t, t, x0_target): the student's input, its time, and its target. At i = 0 the
        target is the teacher's last prediction, as its sampler returns there.

    Source: arXiv:2202.00512, Algorithm 2 and Appendix G.
    """
    n = jnp.asarray(num_steps, jnp.float32)
    t, m, s = (i + 1) / n, (i + 0.5) / n, i / n
    x_t = process.add_noise(x0, eps, t)
    x0_t = denoise(x_t, t)
    x_m = process.ddim_step(x_t, x0_t, t, m)
    x0_m = denoise(x_m, m)

    half_t, half_m, half_s = (process.logsnr(u) / 2 for u in (t, m, s))
    # alpha_s - r_sm alpha_m = alpha_s (1 - exp(half_m - half_s)), and so on.
    weight_m = -process.alpha(s) * jnp.expm1(half_m - half_s)
    ratio = process.sigma(s) / process.sigma(m)
    weight_t = -ratio * process.alpha(m) * jnp.expm1(half_t - half_m)
    w = jnp.where(i == 0, 1.0, weight_m / (weight_m + weight_t))
    target = x0_t + broadcast_left(w, x0_t) * (x0_m - x0_t)
    return x_t, t, jax.lax.stop_gradient(target)
