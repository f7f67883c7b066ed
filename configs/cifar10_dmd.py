"""One-step student of EDM's class-conditional CIFAR-10 model, by DMD.

    python -m kdiff_jax.main --config=configs/cifar10_dmd.py --workdir=runs/cifar10_dmd

The teacher is the public edm-cifar10-32x32-cond-vp.pkl at teachers/, and beside it lie
LPIPS' two files, vgg16-397923af.pth of torchvision and vgg.pth of LPIPS. Settings
[paper]. Hardware: 7 GPUs [paper]; a TPU v4-16 with
--config.stages.student.train.num_microbatches=7 [inferred]. Expected: FID 2.66; without
the pairs 5.58, without distribution matching 3.82 [paper].
"""

from configs import dmd


def get_config(size: str = "full"):
    def stages(tiny):
        pairs = dict(
            kind="pairs",
            num_pairs=24 if tiny else 100_000,
            num_held_out=8 if tiny else 1024,
            shard_size=16 if tiny else 10_000,
            batch_size=8 if tiny else 1000,
            sampler=dict(name="heun", num_steps=3 if tiny else 18),
        )
        distance = dict(distance="l2") if tiny else dmd.LPIPS
        student = dmd.student(
            tiny,
            method=dict(name="dmd", regression_weight=0.25, **distance),
            lr=5e-5,
            train=dict(num_steps=300_000, batch_size=392),
            pairs="pairs",
        )
        return dict(pairs=pairs, student=student)

    return dmd.get(
        "cifar10_dmd",
        size,
        teacher="edm-cifar10-32x32-cond-vp.pkl",
        network=dict(name="song_unet", dropout=0.13),
        shape=(32, 32, 3),
        num_classes=10,
        augment_dim=9,
        data=dict(name="cifar10", path=""),
        num_steps=18,
        stages=stages,
    )
