"""What the recipes on scikit-learn's 8x8 digits share: the set comes with the package.

A class-conditional network of 0.35 M parameters, trained on two CPU cores in minutes.
"""

from configs import common

SHAPE = (8, 8, 1)


def sections(tiny: bool) -> dict:
    """data, model, train and evaluate; on the CPU, a device for each of two cores."""
    network = dict(
        name="iddpm_unet",
        channels=32,
        emb_channels=128,
        channel_mult=(1, 1),
        num_blocks=1,
        attn_resolutions=(4,),
        num_heads=2,
    )
    if tiny:
        network = common.tiny_network("iddpm_unet", emb_channels=16)
    model = dict(
        network=network,
        precondition=dict(name="v"),
        process=dict(name="cosine"),
        image_shape=SHAPE,
        num_classes=10,
        sampler=dict(name="ddim", num_steps=4 if tiny else 64),
    )
    return dict(
        cpu_devices=2,
        data=dict(name="digits"),
        model=model,
        train=common.tiny_train() if tiny else dict(log_every=100, sample_every=500),
        evaluate=dict(num_images=20 if tiny else 3000),
    )


def teacher(tiny: bool) -> dict:
    train = dict(num_steps=2500, batch_size=64, result="ema")
    return dict(
        method=dict(name="denoise", weight="v_mse"),
        optim=dict(
            lr=2e-3,
            warmup_steps=100,
            schedule="cosine",
            clip_norm=1.0,
            ema_half_life=4000.0,
        ),
        train=train | (dict(num_steps=4, batch_size=8) if tiny else {}),
    )
