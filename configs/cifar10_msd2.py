"""Two one-step students of EDM's CIFAR-10 model by DMD2, five classes each: MSD.

    python -m kdiff_jax.main --config=configs/cifar10_msd2.py --workdir=runs/msd2

Song et al. (2024, arXiv:2410.23274) have no run on CIFAR-10; the student's numbers are
those of cifar10_dmd2.py. Another number of students that divides ten:
--config.partition.num_groups=5. Hardware: 8 GPUs or a TPU v4-8.

`configs/cifar10_msd2.py:cpu` is for the small networks of cifar10_dmd2.py:cpu, whose
teacher may be taken: --config.init.teacher=W/teacher
"""

from configs import cifar10_dmd2, common


def get_config(size: str = "full"):
    config = cifar10_dmd2.get_config(size).to_dict()
    stages = config.pop("stages")
    stages["student"]["partition"] = True
    name = config.pop("name").replace("dmd2", "msd2")
    return common.config(name, stages=stages, partition=dict(num_groups=2), **config)
