"""GDD-I on AFHQv2 64x64: a one-step generator, most convolutions frozen.

    python -m kdiff_jax.main --config=configs/afhq64_gddi.py --workdir=runs/gddi

The teacher is the public edm-afhqv2-64x64-uncond-ve.pkl at teachers/, read as it is.
Settings of generator and optimizers [code]. Hardware: 4 GPUs, whose batch norms see 64
images each [code]; 8 GPUs or a TPU v4-16 [inferred] with
--config.stages.student.method.virtual_local_batch=32. Expected of the authors'
discriminator: FID 1.31 [secondary]. That one reads classifiers (DeiT-B and
EfficientNet-lite0), this one the teacher's encoder, with which no figure is published;
see configs/gdd.py.

Images as EDM prepares them: --config.data.path=afhqv2-64x64.zip
"""

from configs import gdd


def get_config(size: str = "full"):
    return gdd.get(
        "afhq64_gddi",
        size,
        teacher="edm-afhqv2-64x64-uncond-ve.pkl",
        network=gdd.NCSNPP | dict(channel_mult=(1, 2, 2, 2)),
        shape=(64, 64, 3),
        num_classes=0,
        data=gdd.DATA_64 | dict(use_labels=False),
        freeze=True,
        lr=2e-5,
        disc_lr=4e-5,
        num_images=10_000_000,
    )
