"""An autoencoder of images: the latents that latent diffusion models denoise.

Rombach et al. 2022, arXiv:2112.10752, section 3.1: reconstruction, a small weight on
the divergence of the latents from a normal distribution, and a discriminator of
patches. The student is no denoiser: see `encoders.trained.net`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kdiff_jax import pretrained as pretrained_networks
from kdiff_jax import rng
from kdiff_jax.arguments import Count, NotNegative, Whole
from kdiff_jax.discriminators.patch import PatchDiscriminator
from kdiff_jax.encoders import autoencoder_kl
from kdiff_jax.features import lpips
from kdiff_jax.losses import adversarial, gaussian, regression
from kdiff_jax.method import Aux, Method, Net, Phase

STAGE = "autoencoder"  # see `methods.kind_of`
ROLES = ("disc",)  # see `methods.roles`


def make(
    *,
    nets,
    process,
    kl_weight: NotNegative = 1e-6,
    lpips_weight: NotNegative = 0.0,
    lpips_weights: str = "",
    lpips_heads: str = "",
    gan_weight: NotNegative = 0.02,
    gan_start: Whole = 1000,
    gan_warmup: Count = 1000,
    disc_width: Count = 32,
    disc_levels: Count = 2,
) -> Method:
    """L1 + lpips_weight LPIPS + kl_weight KL + gan_weight w(step) G, and the
    discriminator's own loss, in one update of both.

    L1 is a mean over pixels and channels, KL a sum over the latents of an image in
    nats, G and the discriminator's loss hinges that are means over patches. w is 0 up
    to step `gan_start`, and 1 from `gan_warmup` steps later on.

    Args:
        nets: {"student": Net}, an autoencoder.
        process: None; what is trained knows no noise levels.
        kl_weight: Weight of the divergence.
        lpips_weight: Weight of the LPIPS distance of VGG; 0 for none.
        lpips_weights: File of the VGG network; see `lpips.load`.
        lpips_heads: File of its heads.
        gan_weight: Weight of the adversarial loss; 0 trains no discriminator.
        gan_start: Steps without adversarial loss, in which the discriminator learns.
        gan_warmup: Steps in which its weight grows linearly.
        disc_width, disc_levels: See `PatchDiscriminator`.

    Raises:
        ConfigError: If LPIPS lacks a file.

    Source: Esser et al. 2021, arXiv:2012.09841; the weights are this project's.

    Examples:
        >>> from kdiff_jax import methods
        >>> from kdiff_jax.encoders import trained
        >>> shape = (16, 16, 3)
        >>> fields = dict(widths=(8, 8), num_groups=4)
        >>> fields |= dict(image_shape=shape, precision="float32")
        >>> vae = trained.make("autoencoder_kl", **fields)
        >>> nets = {"student": trained.net(vae, shape)}
        >>> method = methods.make("autoencoder", nets=nets, process=None)
        >>> method.phases[0].trains
        ('student', 'disc')
    """
    del process
    student, shape = nets["student"], nets["student"].image_shape
    disc = _discriminator(shape, disc_width, disc_levels, student.precision)
    adversary = {"disc": disc} if gan_weight else {}
    pretrained = {}
    if lpips_weight:
        pretrained["lpips"] = pretrained_networks.lpips(
            lpips_weights or None, lpips_heads or None
        )

    def loss(params, ctx):
        x0 = ctx.batch["x0"]
        mean, logvar = student.encode(params["student"], x0)
        noise = rng.normal(ctx.keys, "z", mean.shape[1:])
        z = autoencoder_kl.draw(mean, logvar, noise)
        x0_hat = student.apply(params["student"], z)
        metrics = {
            "l1": regression.l1_per_example(x0_hat, x0).mean(),
            "kl": gaussian.kl_to_normal_per_example(mean, logvar).mean(),
        }
        value = metrics["l1"] + kl_weight * metrics["kl"]
        if lpips_weight:
            distance = lpips.distance(
                ctx.frozen["lpips"], x0_hat, x0, dtype=student.precision
            )
            metrics["lpips"] = distance.mean()
            value += lpips_weight * metrics["lpips"]
        if gan_weight:
            judged = adversary_losses(params, ctx, x0, x0_hat)
            metrics |= judged
            ramp = jnp.clip((ctx.step - gan_start) / gan_warmup, 0, 1)
            value += gan_weight * ramp * judged["gan"]
        metrics["loss"] = value
        return value + metrics.get("disc_loss", 0.0), Aux(metrics)

    def adversary_losses(params, ctx, x0, x0_hat) -> dict[str, Any]:
        # Of the generator's, no gradient flows into the discriminator, and the other
        # way: one update of both needs the reconstructions once.
        gan = adversarial.generator("hinge", disc.apply(ctx.nets["disc"], x0_hat))
        fake = disc.apply(params["disc"], jax.lax.stop_gradient(x0_hat))
        real = disc.apply(params["disc"], x0)
        disc_loss = adversarial.discriminator("hinge", real, fake)
        return {"gan": gan.mean(), "disc_loss": disc_loss.mean()}

    roles = {"student": student, **adversary}
    return Method(
        nets=roles,
        phases=(Phase("autoencoder", tuple(roles), loss),),
        batch_keys=("x0",),
        pretrained=pretrained,
    )


def _discriminator(shape, width: int, num_levels: int, precision: str) -> Net:
    """The patch discriminator, (params, images) -> logits."""
    module = PatchDiscriminator(width, num_levels, dtype=precision)
    images = jnp.zeros((1, *shape), jnp.float32)

    def apply(params, x) -> Any:
        return module.apply({"params": params}, x)

    return Net(
        init=lambda key: module.init(key, images)["params"],
        apply=apply,
        image_shape=shape,
        precision=precision,
    )
