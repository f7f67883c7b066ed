"""One-step student of EDM's class-conditional CIFAR-10 model, by DMD2.

    python -m kdiff_jax.main --config=configs/cifar10_dmd2.py --workdir=runs/dmd2

The teacher is the public edm-cifar10-32x32-cond-vp.pkl at teachers/, read as it is.
Hardware: 8 GPUs or a TPU v4-32 [inferred]. The authors have no run on CIFAR-10. Batch,
length, learning rate, weight decay, clipping, GAN weight and the decay of the average,
one of three, are those of NVlabs/FastGen [code]; warm-up and discriminator are those of
the authors' ImageNet [code]. FastGen's FID of 1.99 [secondary] is of another
discriminator, which reads the teacher at three resolutions, of a fake score whose loss
has no weight, and of steps that train either the student or the guidance; of the
settings here no figure is published.

`configs/cifar10_dmd2.py:cpu` is a class-conditional network of 0.9 M parameters, for a
CPU and an hour beside the teacher's, which may be taken from another recipe of this
size: --config.init.teacher=W/teacher
"""

from configs import common, dmd, small_unet


def get_config(size: str = "full"):
    common.check_size(size, ("full", "cpu", "tiny"))
    if size == "cpu":
        return small_unet.cifar10("cifar10_dmd2_cpu", small_unet.dmd2_student())

    def stages(tiny):
        student = dmd.student(
            tiny,
            method=dict(name="dmd2", student_every=2 if tiny else 5, gan_weight=1e-3),
            lr=1e-4,
            train=dict(
                num_steps=100_000, batch_size=2048, num_microbatches=4, result="ema"
            ),
        )
        student["optim"] |= dict(ema_decay=0.9996)  # of 20,000 updates
        return dict(student=student)

    return dmd.get(
        "cifar10_dmd2",
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
