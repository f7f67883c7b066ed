"""Latent diffusion of CIFAR-10 on two CPU cores: 8x8 latents of 32x32 images.

    python -m kdiff_jax.main --config=configs/cifar10_latent.py --workdir=runs/latent

The autoencoder (Rombach et al. 2022, arXiv:2112.10752, at a small size [inferred]) has
0.68 M parameters and is trained first. Its folder, runs/latent/autoencoder/vae, is one
that diffusers loads; done.json beside it has the errors of its reconstructions.
"""

from configs import common, small_unet


def autoencoder(tiny: bool) -> dict:
    """The stage that trains the autoencoder."""
    network = dict(
        name="autoencoder_kl",
        widths=(8, 8) if tiny else (16, 32, 64),
        num_blocks=1,
        num_groups=4 if tiny else 8,
        mid_attention=not tiny,
    )
    method = dict(name="autoencoder", gan_start=2000, gan_warmup=500)
    train = dict(num_steps=4000, batch_size=16, result="ema")
    if tiny:
        method |= dict(gan_start=1, gan_warmup=2, disc_width=8, disc_levels=1)
        train |= dict(num_steps=4, batch_size=8)
    return dict(
        kind="autoencoder",
        network=network,
        method=method,
        optim=dict(
            lr=1e-3,
            warmup_steps=100,
            schedule="cosine",
            clip_norm=1.0,
            ema_decay=0.99,
        ),
        roles=dict(disc=dict(lr=5e-4, b1=0.5)),
        train=train,
        num_held_out=20 if tiny else 500,
        num_measured=40 if tiny else 10_000,
    )


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    shape = (16, 16, 3) if tiny else small_unet.SHAPE
    parts = small_unet.sections(tiny, shape=shape, data=small_unet.CIFAR10)
    parts["evaluate"] |= dict(features="" if tiny else "resnet56")
    stages = dict(autoencoder=autoencoder(tiny))
    return common.config(
        "cifar10_latent", order=("autoencoder",), stages=stages, **parts
    )
