"""Two one-step students of EDM's CIFAR-10 model by DMD2, five classes each: MSD.

    python -m kdiff_jax.main --config=configs/cifar10_msd2.py --workdir=runs/msd2

Song et al. (2024, arXiv:2410.23274) have no run on CIFAR-10; the student's numbers are
those of cifar10_dmd2.py. Another number of students that divides ten:
--config.partition.num_groups=5. Hardware: 8 GPUs or a TPU v4-8.

`:gddi` behind the name of the file is the same by GDD-I, as cifar10_gddi.py:cond is for
one student; the discriminators read real images of their student's own classes. `:cpu`
and `:cpu_gddi` are for the small networks of cifar10_dmd2.py:cpu, whose teacher may be
taken: --config.init.teacher=W/teacher
"""

from configs import cifar10_dmd2, cifar10_gddi, common


def get_config(size: str = "full"):
    common.check_size(size, ("full", "gddi", "cpu", "cpu_gddi", "tiny"))
    if "gddi" in size:
        single = "cpu" if size == "cpu_gddi" else "cond"
        config = cifar10_gddi.get_config(single).to_dict()
    else:
        config = cifar10_dmd2.get_config(size).to_dict()
    stages, name = config.pop("stages"), config.pop("name")
    stages["student"]["partition"] = True
    name = name.replace("dmd2", "msd2").replace("gddi", "msd2_gddi")
    return common.config(name, stages=stages, partition=dict(num_groups=2), **config)
