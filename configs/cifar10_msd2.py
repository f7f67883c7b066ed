"""Two one-step students of EDM's CIFAR-10 model by DMD2, five classes each: MSD.

    python -m kdiff_jax.main --config=configs/cifar10_msd2.py --workdir=runs/msd2

Song et al. (2024, arXiv:2410.23274) have no run on CIFAR-10; the student's numbers are
those of cifar10_dmd2.py. Another number of students that divides ten:
--config.partition.num_groups=5. Hardware: 8 GPUs or a TPU v4-8.

`configs/cifar10_msd2.py:cpu` is for the small networks of cifar10_dmd2.py:cpu, whose
teacher may be taken: --config.init.teacher=W/teacher. `:cpu_gddi` is the same by GDD-I,
whose discriminator reads real images of the student's own classes.
"""

from configs import cifar10_dmd2, cifar10_gddi, common


def get_config(size: str = "full"):
    common.check_size(size, ("full", "cpu", "cpu_gddi", "tiny"))
    if size == "cpu_gddi":
        config = cifar10_gddi.get_config("cpu").to_dict()
    else:
        config = cifar10_dmd2.get_config(size).to_dict()
    stages, name = config.pop("stages"), config.pop("name")
    stages["student"]["partition"] = True
    name = name.replace("dmd2", "msd2").replace("gddi", "msd2_gddi")
    return common.config(name, stages=stages, partition=dict(num_groups=2), **config)
