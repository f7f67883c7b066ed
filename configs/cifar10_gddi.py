"""GDD-I on unconditional CIFAR-10: GDD with most convolutions frozen.

    python -m kdiff_jax.main --config=configs/cifar10_gddi.py --workdir=runs/gddi

The teacher is the public edm-cifar10-32x32-uncond-ve.pkl
at teachers/, read as it is. Hardware: 4 to 8 GPUs, under six hours on eight [paper].
Expected of the authors' discriminator: FID 1.54 [paper].
The authors' discriminator reads classifiers (VGG-16 and EfficientNet-lite0); this
one reads the teacher's encoder, with which no figure is published.
"""

from configs import gdd


def get_config(size: str = "full"):
    return gdd.get(
        "cifar10_gddi",
        size,
        teacher="edm-cifar10-32x32-uncond-ve.pkl",
        network=gdd.NCSNPP,
        shape=(32, 32, 3),
        num_classes=0,
        data=dict(name="cifar10", path="", use_labels=False),
        freeze=True,
        lr=1e-4,
        disc_lr=1e-4,
        num_images=5_000_000,
    )
