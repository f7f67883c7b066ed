"""GDD-I on CIFAR-10: GDD with most convolutions frozen.

    python -m kdiff_jax.main --config=configs/cifar10_gddi.py --workdir=runs/gddi

Unconditional; `:cond` behind the name of the file makes it class-conditional. The
teacher is the public edm-cifar10-32x32-uncond-ve.pkl or edm-cifar10-32x32-cond-ve.pkl
at teachers/, read as it is. Settings of generator and optimizers [code]. Hardware: 4
GPUs, whose batch norms see 64 images each [code], or a TPU v4-8 [inferred]; 8 GPUs with
--config.stages.student.method.virtual_local_batch=32, under six hours on A100 [paper].
Expected of the authors' discriminator: FID 1.54 [paper], conditional 1.44 [secondary].
That one reads classifiers (VGG-16 and EfficientNet-lite0), this one the teacher's
encoder, with which no figure is published; see configs/gdd.py.

`configs/cifar10_gddi.py:cpu` is a class-conditional network of 0.9 M parameters, for a
CPU and an hour beside the teacher's, which may be taken from another recipe of this
size: --config.init.teacher=W/teacher
"""

from configs import gdd, small_unet


def get_config(size: str = "full"):
    if size == "cpu":
        student = small_unet.gdd_student(freeze=True)
        return small_unet.cifar10("cifar10_gddi_cpu", student)
    return gdd.cifar10("cifar10_gddi", size, freeze=True)
