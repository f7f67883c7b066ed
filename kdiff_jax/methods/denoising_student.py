"""Denoising Student: regress the teacher's deterministic sample from its noise.

Luhman & Luhman 2021, arXiv:2101.02388.
"""

import functools

import jax.numpy as jnp

from kdiff_jax import decoded, registry
from kdiff_jax import pretrained as pretrained_networks
from kdiff_jax.arguments import Whole
from kdiff_jax.features import lpips
from kdiff_jax.losses import regression
from kdiff_jax.method import Aux, Method, Phase

SCORES_PAIRS = True  # see `methods.scores_pairs`


def make(
    *,
    nets,
    process,
    loss: str = "l2",
    lpips_weights: str = "",
    lpips_heads: str = "",
    decode_batch: Whole = 0,
) -> Method:
    """E[ |F(x_T) - y| ] or E[ ||F(x_T) - y||^2 ], summed over pixels and channels.

    The pairs (z, x0 = y) were made once by the teacher's sampler; F is the student's
    x0_hat at the noise end of time. For a network that predicts eps, give the student
    the precondition "residual": F(x_T) = x_T - eps(x_T, 999), the authors' form.

    Args:
        nets: {"student": Net}.
        process: The forward process; its t_max is the student's only time.
        loss: "l1" (the authors' choice for CIFAR-10) or "l2" (the others), of x0;
            "decoded_l1" or "decoded_l2", of the images that latents decode to; or
            "lpips" of VGG, not the authors', of images, too.
        lpips_weights: File of the VGG network, for "lpips"; see `lpips.load`.
        lpips_heads: File of its heads.
        decode_batch: Number of images that a device decodes and compares at once; 0 for
            all of a batch.

    Raises:
        ConfigError: If there is no such loss, or LPIPS lacks a file.

    Source: arXiv:2101.02388 Eq. 11; the authors' code omits the 1/2.

    Examples:
        >>> from kdiff_jax import denoiser, methods, networks
        >>> from kdiff_jax.diffusion.process import cosine
        >>> mlp = networks.make("mlp", out_channels=2, num_classes=4)
        >>> net = denoiser.make(mlp, cosine(), image_shape=(1, 1, 2), num_classes=4)
        >>> nets = {"student": net, "teacher": net}
        >>> method = methods.make(
        ...     "denoising_student", nets=nets, process=cosine(), loss="l1"
        ... )
        >>> method.batch_keys, method.init_from
        (('z', 'x0', 'y'), {'student': 'teacher'})
    """
    student = nets["student"]
    sums = {
        "l1": regression.l1_sum_per_example,
        "l2": regression.l2_sum_per_example,
    }
    known = (*sums, *(f"decoded_{name}" for name in sums), "lpips")
    if loss not in known:
        raise registry.unknown("loss", loss, known)
    pretrained = {}
    if loss == "lpips":
        files = lpips_weights or None, lpips_heads or None
        pretrained = {"lpips": pretrained_networks.lpips(*files)}

    def apart(frozen, x0_hat, x0):
        if loss in sums:
            return sums[loss](x0_hat, x0)
        if loss == "lpips":
            function = functools.partial(
                lpips.distance, frozen["lpips"], dtype=student.precision
            )
        else:
            function = sums[loss.removeprefix("decoded_")]
        return decoded.distance(
            student, frozen, function, x0_hat, x0, batch_size=decode_batch
        )

    def kd_loss(params, ctx):
        z, x0, y = ctx.batch["z"], ctx.batch["x0"], ctx.batch["y"]
        t_max = jnp.full(len(z), process.t_max, jnp.float32)
        x0_hat = student.apply(params["student"], process.z_scale * z, t_max, y)
        value = apart(ctx.frozen, x0_hat, x0).mean()
        return value, Aux({"loss": value})

    return Method(
        nets={"student": student},
        frozen=tuple(pretrained),
        init_from={"student": "teacher"},
        phases=(Phase("kd", ("student",), kd_loss),),
        batch_keys=("z", "x0", "y"),
        pretrained=pretrained,
    )
