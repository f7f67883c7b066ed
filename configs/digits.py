"""What the recipes on scikit-learn's 8x8 digits share: the set comes with the package.

A class-conditional network of 0.4 M parameters that trains on two CPU cores in minutes.
"""

SHAPE = (8, 8, 1)


def model(tiny: bool) -> dict:
    return dict(
        network=dict(
            name="iddpm_unet",
            channels=8 if tiny else 32,
            emb_channels=16 if tiny else 128,
            channel_mult=(1, 2),
            num_blocks=1 if tiny else 2,
            attn_resolutions=(4,),
            num_heads=1 if tiny else 2,
        ),
        precondition=dict(name="v"),
        process=dict(name="cosine"),
        image_shape=SHAPE,
        num_classes=10,
        sampler=dict(name="ddim", num_steps=4 if tiny else 64),
    )


def teacher(tiny: bool) -> dict:
    return dict(
        method=dict(name="denoise", weight="v_mse"),
        optim=dict(
            lr=2e-3,
            warmup_steps=100,
            schedule="cosine",
            clip_norm=1.0,
            ema_half_life=4000.0,
        ),
        train=dict(
            num_steps=4 if tiny else 2500, batch_size=8 if tiny else 64, result="ema"
        ),
    )
