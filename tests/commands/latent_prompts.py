"""A recipe on cached latents of images with captions, by FOLDER.

FOLDER has a pipeline with `vae`, `tokenizer` and `text_encoder`, photos of 2x2 pixels,
and their cache with flips; see `test_resume_latents`.
"""

import points

from configs import common, digits

LENGTH = 12
VAE = dict(name="autoencoder_kl", widths=(8, 16), num_blocks=1, num_groups=4)
TEXT = dict(
    name="clip_text",
    vocab_size=1000,
    width=16,
    num_blocks=2,
    num_heads=2,
    hidden=24,
)


def get_config(argument: str):
    """Of "STEPS,FOLDER"."""
    num_steps, folder = argument.split(",")
    train = dict(num_steps=int(num_steps), batch_size=8)
    stages = dict(
        teacher=digits.teacher(tiny=True) | dict(train=train | dict(result="ema")),
        pairs=dict(
            kind="pairs", num_pairs=64, num_held_out=8, shard_size=8, batch_size=8
        ),
        student=dict(
            method=dict(name="denoising_student", loss="l1"),
            pairs="pairs",
            optim=dict(lr=1e-3, ema_decay=0.9),
            sampler=dict(name="ddim", num_steps=1),
            train=train | dict(result="best", validate_every=3),
        ),
        # It draws prompts and latents of the cache, and drops some of the prompts.
        matched=dict(
            method=dict(name="tsm", null_prob=0.5, guidance=2.0),
            optim=dict(lr=1e-3, ema_decay=0.9),
            train=train | dict(result="ema"),
        ),
    )
    sections = points.sections()
    sections["data"] = dict(
        name="folder",
        path=f"{folder}/photos",
        size=2,
        use_labels=False,
        autoencoder=f"{folder}/vae",
        text_encoder=folder,
        latents=f"{folder}/cache",
        flip=True,
    )
    sections["model"] |= dict(
        image_shape=(1, 1, 4),
        space="latents",
        autoencoder=VAE,
        text=TEXT,
        num_classes=24,
        cond_dim=16,
        cond_length=LENGTH,
    )
    sections["train"] = dict(log_every=1, sample_every=1000, save_every=3)
    order = ("teacher", "pairs", "student", "matched")
    return common.config("latent_prompts", order=order, stages=stages, **sections)
