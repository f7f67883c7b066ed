"""Latent diffusion of CIFAR-10 on two CPU cores: 8x8 latents of 32x32 images.

    python -m kdiff_jax.main --config=configs/cifar10_latent.py --workdir=runs/latent

The autoencoder (Rombach et al. 2022, arXiv:2112.10752, at a small size [inferred]) has
0.68 M parameters and is trained first; then the images are encoded once, and all that
follows is trained on their latents. Its folder, runs/latent/autoencoder/vae, is one
that diffusers loads; done.json beside it has the errors of its reconstructions, and
their distance to the images, which no model on these latents can be under. Distances
are FID of 10,000 images where Inception's weights are there (evaluate.fetch gets them);
on features of a CIFAR-10 ResNet-56, a much smaller network, by

    --config.evaluate.features=resnet56 --config.evaluate.weights=cifar10_resnet56.npz

The set is read from a prepared tensorflow-datasets folder, or from a file:
--config.data.name=npz --config.data.path=cifar10.npz
"""

from configs import common, small_unet

SHAPE = (8, 8, 8)
ORDER = (
    *("autoencoder", "latents", "teacher"),
    *("progressive", "pairs", "student", "dmd2", "gddi", "evaluate"),
)


def encoder_fields(tiny: bool) -> dict:
    """Name and fields of the autoencoder that differ from Stable Diffusion's."""
    return dict(
        name="autoencoder_kl",
        widths=(8, 8) if tiny else (16, 32, 64),
        num_blocks=1,
        latent_channels=SHAPE[-1],
        num_groups=4 if tiny else 8,
        mid_attention=not tiny,
    )


def autoencoder(tiny: bool) -> dict:
    """The stage that trains the autoencoder."""
    method = dict(name="autoencoder", gan_start=3000, gan_warmup=500)
    train = dict(num_steps=6000, batch_size=16, result="ema")
    if tiny:
        method |= dict(gan_start=1, gan_warmup=2, disc_width=8, disc_levels=1)
        train |= dict(num_steps=4, batch_size=8)
    return dict(
        kind="autoencoder",
        network=encoder_fields(tiny),
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


def network(tiny: bool) -> dict:
    """The denoiser of latents."""
    if tiny:
        return common.tiny_network("iddpm_unet", emb_channels=16)
    return dict(
        name="iddpm_unet",
        channels=32,
        emb_channels=128,
        channel_mult=(1, 2),
        num_blocks=2,
        attn_resolutions=(8, 4),
        num_heads=2,
    )


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    pixels = (16, 16, 3) if tiny else small_unet.SHAPE
    parts = small_unet.sections(tiny, shape=pixels, data=small_unet.CIFAR10)
    parts["data"] |= dict(autoencoder="autoencoder", latents="latents")
    parts["model"] |= dict(
        network=network(tiny),
        space="latents",
        image_shape=SHAPE,
        autoencoder=encoder_fields(tiny) | dict(scaling_factor=1.0),
    )
    # Latents have no bounds to be clipped to.
    parts["model"]["sampler"]["clip"] = False
    parts["evaluate"] |= dict(features="" if tiny else "inception")
    teacher = small_unet.teacher(tiny)
    if not tiny:
        teacher["train"] |= dict(num_steps=8000, batch_size=64)
    stages = dict(
        autoencoder=autoencoder(tiny),
        latents=dict(kind="latents", batch_size=50),
        teacher=teacher,
        progressive=small_unet.progressive(tiny),
        pairs=small_unet.pairs(tiny),
        student=small_unet.student(tiny, loss="l2"),
        dmd2=small_unet.dmd2_student(tiny=tiny),
        gddi=small_unet.gdd_student(freeze=True, tiny=tiny),
        evaluate=dict(
            kind="evaluate",
            models=("teacher", "teacher@1", "progressive", "student", "dmd2", "gddi"),
        ),
    )
    for name in ("progressive", "student", "dmd2", "gddi"):
        stages[name]["sampler"].pop("clip", None)
    return common.config("cifar10_latent", order=ORDER, stages=stages, **parts)
