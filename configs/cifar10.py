"""What the recipes on CIFAR-10 share.

The set is read from a prepared tensorflow-datasets folder, or from a file:
--config.data.name=npz --config.data.path=cifar10.npz
"""

SHAPE = (32, 32, 3)
SIZES = ("full", "cpu", "tiny")


def data(size: str) -> dict:
    if size == "tiny":
        return dict(name="synthetic", path="", size=32, flip=True)
    return dict(name="cifar10", path="", flip=True)


def small_model(size: str) -> dict:
    """A class-conditional v-prediction network for two CPU cores: 0.89 M parameters."""
    tiny = size == "tiny"
    return dict(
        network=dict(
            name="iddpm_unet",
            channels=8 if tiny else 16,
            emb_channels=16 if tiny else 128,
            channel_mult=(1, 2) if tiny else (1, 2, 4),
            num_blocks=1,
            attn_resolutions=() if tiny else (8,),
            num_heads=1 if tiny else 2,
        ),
        precondition=dict(name="v"),
        process=dict(name="cosine"),
        image_shape=SHAPE,
        num_classes=10,
        sampler=dict(name="ddim", num_steps=4 if tiny else 16, clip=True),
    )


def small_teacher(size: str) -> dict:
    tiny = size == "tiny"
    return dict(
        method=dict(name="denoise", weight="v_mse"),
        optim=dict(
            lr=1e-3,
            warmup_steps=200,
            schedule="cosine",
            clip_norm=1.0,
            ema_half_life=10_000.0,
        ),
        train=dict(
            num_steps=4 if tiny else 4000, batch_size=8 if tiny else 32, result="ema"
        ),
    )
