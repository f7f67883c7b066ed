"""GDD-I on class-conditional ImageNet 64x64: a one-step generator by a GAN.

    python -m kdiff_jax.main --config=configs/imagenet64_gddi.py --workdir=runs/gddi

The teacher is the public edm-imagenet-64x64-cond-adm.pkl at teachers/, read as it is.
Settings of generator and optimizers [code], but for the batch norms, which see 16
images each; the authors' saw the 128 of a GPU [code], which float32 has no room for.
Hardware: 8 GPUs [inferred]; a TPU v4-32 with
--config.stages.student.method.virtual_local_batch=8. Expected of the authors'
discriminator: FID 1.16 [paper]. That one reads classifiers (DeiT-B and
EfficientNet-lite0) and starts from the class embedding of one, this one reads the
teacher's encoder, with which no figure is published; see configs/gdd.py.

Images as EDM prepares them: --config.data.path=imagenet-64x64.zip
"""

from configs import gdd


def get_config(size: str = "full"):
    return gdd.get(
        "imagenet64_gddi",
        size,
        teacher="edm-imagenet-64x64-cond-adm.pkl",
        network=dict(name="adm_unet"),
        shape=(64, 64, 3),
        num_classes=10 if size == "tiny" else 1000,
        data=gdd.DATA_64,
        freeze=True,
        lr=8e-6,
        disc_lr=4e-5,
        num_images=10_000_000,
        augment_dim=0,
        batch_size=512,
        num_microbatches=4,
        local_batch=128,
        virtual_local_batch=16,
        ema_half_life=50_000_000.0,
    )
