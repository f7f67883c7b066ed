"""DMD: a one-step student by distribution matching, and regression on a few pairs.

Yin et al. 2024, arXiv:2311.18828. The student's images are moved by the difference
between the teacher's denoiser and one that learns those images; pairs of the teacher's
sampler keep it from dropping modes.
"""

import functools

import jax.numpy as jnp

from kdiff_jax import decoded, denoiser, rng
from kdiff_jax import pretrained as pretrained_networks
from kdiff_jax.arguments import NotNegative, Share, Whole
from kdiff_jax.diffusion import grids
from kdiff_jax.diffusion.guidance import Interval
from kdiff_jax.errors import ConfigError
from kdiff_jax.features import lpips
from kdiff_jax.losses import distribution, regression
from kdiff_jax.method import Aux, Method, Phase

ROLES = ("fake_score",)  # see `methods.roles`


def make(
    *,
    nets,
    process,
    regression_weight: NotNegative = 0.25,
    distance: str = "l2",
    lpips_weights: str = "",
    lpips_heads: str = "",
    decode_batch: Whole = 0,
    dm_weight: str = "normalized",
    fake_weight: str = "edm",
    min_step: Share = 0.02,
    max_step: Share = 0.98,
    spacing: str | None = None,
    guidance: NotNegative = 1.0,
    guidance_interval: Interval | None = None,
) -> Method:
    """Distribution matching + regression_weight * distance(G(z, y), x0), in turns with
    the fake score's own update.

    The pairs (z, x0, y) were made once by the teacher's sampler; distribution matching
    draws its own noise and labels, as many.

    Args:
        nets: {"student": Net, "teacher": Net}.
        process: The forward process; its t_max is the student's only time.
        regression_weight: Weight of the regression loss; 0.25 in the paper, 0.5 for its
            unconditional CIFAR-10.
        distance: "l2", the mean square of x0; "decoded_l2", that of the images that
            latents decode to; or "lpips" of VGG (the paper's), of images, too.
        lpips_weights: File of the VGG network, for "lpips"; see `lpips.load`.
        lpips_heads: File of its heads.
        decode_batch: Number of images that a device decodes and compares at once; 0 for
            all of a batch.
        dm_weight: See `distribution.gradient`.
        fake_weight: See `regression.weight`; that of the teacher's training.
        min_step, max_step: Part of the time grid on which the two scores are compared.
        spacing: Spacing of that grid, see `grids.make`; None for the process' own.
        guidance: Classifier-free guidance of the teacher, see `denoiser.guided`;
            the fake score has none. Make the pairs with the same (the sampler's).
        guidance_interval: Noise levels at which it acts; None for all.

    Raises:
        ConfigError: If there is no such distance, or LPIPS lacks a file.

    Source: arXiv:2311.18828, Algorithms 1 and 2.

    Examples:
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import cosine
        >>> mlp = networks.make("mlp", out_channels=2, num_classes=4)
        >>> net = denoiser.make(mlp, cosine(), image_shape=(1, 1, 2), num_classes=4)
        >>> nets = {"student": net, "teacher": net}
        >>> method = methods.make("dmd", nets=nets, process=cosine())
        >>> [phase.trains for phase in method.phases], method.batch_keys
        ([('student',), ('fake_score',)], ('z', 'x0', 'y'))
    """
    student, teacher = nets["student"], nets["teacher"]
    guided = denoiser.guided(teacher, process, guidance, guidance_interval)
    if distance not in ("l2", "decoded_l2", "lpips"):
        raise ConfigError(f"distance={distance!r}; choose l2 or lpips, or decoded_l2")
    pretrained = {}
    if distance == "lpips":
        pretrained = {
            "lpips": pretrained_networks.lpips(
                lpips_weights or None, lpips_heads or None
            )
        }
    shape = student.image_shape
    inner_time = grids.draw_from(process, low=min_step, high=max_step, spacing=spacing)
    any_time = grids.draw_from(process, spacing=spacing)

    def generate(params, z, y):
        t_max = jnp.full(len(z), process.t_max, jnp.float32)
        return student.apply(params, process.z_scale * z, t_max, y)

    def prepare(ctx):
        z_gen = rng.normal(ctx.keys, "z", shape)
        y_gen = ctx.draw_y(student)
        x_gen = generate(ctx.nets["student"], z_gen, y_gen)
        return {**ctx.batch, "z_gen": z_gen, "y_gen": y_gen, "x_gen": x_gen}

    def apart(frozen, x0_hat, x0):
        if distance == "l2":
            return regression.mse_per_example(x0_hat, x0)
        function = regression.mse_per_example
        if distance == "lpips":
            function = functools.partial(
                lpips.distance, frozen["lpips"], dtype=student.precision
            )
        return decoded.distance(
            student, frozen, function, x0_hat, x0, batch_size=decode_batch
        )

    def student_loss(params, ctx):
        batch, y = ctx.batch, ctx.batch["y_gen"]

        def real(x_t, t):
            return guided.apply(ctx.frozen["teacher"], x_t, t, y)

        def fake(x_t, t):
            return teacher.apply(ctx.nets["fake_score"], x_t, t, y)

        x = generate(params["student"], batch["z_gen"], y)
        t, eps = inner_time(ctx.keys, "t"), rng.normal(ctx.keys, "eps", shape)
        g = distribution.gradient(
            real, fake, x, t, eps, process=process, weight=dm_weight
        )
        dm = distribution.surrogate(x, g).mean()

        x0_hat = generate(params["student"], batch["z"], batch["y"])
        kd = apart(ctx.frozen, x0_hat, batch["x0"]).mean()
        value = dm + regression_weight * kd
        return value, Aux({"loss": value, "dm": dm, "regression": kd})

    def fake_loss(params, ctx):
        def fake(x_t, t):
            return teacher.apply(params["fake_score"], x_t, t, ctx.batch["y_gen"])

        t, eps = any_time(ctx.keys, "t"), rng.normal(ctx.keys, "eps", shape)
        value = distribution.fake_score(
            fake, ctx.batch["x_gen"], t, eps, process=process, weight=fake_weight
        ).mean()
        return value, Aux({"loss": value})

    return Method(
        nets={"student": student, "fake_score": teacher},
        frozen=("teacher", *pretrained),
        init_from={"student": "teacher", "fake_score": "teacher"},
        phases=(
            Phase("student", ("student",), student_loss),
            Phase("fake_score", ("fake_score",), fake_loss),
        ),
        prepare=prepare,
        batch_keys=("z", "x0", "y"),
        pretrained=pretrained,
        draws=("conditions",),
    )
