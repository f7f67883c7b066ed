"""Two one-step students of EDM's CIFAR-10 model by DMD2, five classes each: MSD.

    python -m kdiff_jax.main --config=configs/cifar10_msd2.py --workdir=runs/msd2

Song et al. (2024, arXiv:2410.23274) have no run on CIFAR-10; the student's numbers are
those of cifar10_dmd2.py. Another number of students that divides ten:
--config.partition.num_groups=5. Hardware: 8 GPUs or a TPU v4-32 [inferred].

`:gddi` behind the name of the file is the same by GDD-I, as cifar10_gddi.py:cond is for
one student, for 8 GPUs; the discriminators read real images of their student's own
classes. `:cpu`
and `:cpu_gddi` are for the small networks of cifar10_dmd2.py:cpu, whose teacher may be
taken: --config.init.teacher=W/teacher. In `:cpu_small` the students have half of its
channels, and first learn to denoise like it. Without that:
--config.stages.student.init.student=random
--config.order="('teacher','student','evaluate')"
"""

from configs import cifar10_dmd2, cifar10_gddi, common


def smaller(stages: dict) -> dict:
    """The same, with smaller students, after teacher score matching."""
    model = dict(network=dict(channels=8))
    tsm = dict(
        method=dict(name="tsm", weight="v_mse"),  # of the teacher
        model=model,
        optim=dict(lr=1e-3, warmup_steps=50, schedule="cosine", ema_half_life=4000.0),
        sampler=dict(name="ddim", num_steps=16, clip=True),
        train=dict(num_steps=1000, batch_size=32, result="ema"),
        partition=True,
    )
    student = stages["student"] | dict(model=model, init=dict(student="tsm"))
    return stages | dict(tsm=tsm, student=student)


def get_config(size: str = "full"):
    common.check_size(size, ("full", "gddi", "cpu", "cpu_gddi", "cpu_small", "tiny"))
    if "gddi" in size:
        single = "cpu" if size == "cpu_gddi" else "cond"
        config = cifar10_gddi.get_config(single)
    else:
        single = "cpu" if size == "cpu_small" else size
        config = cifar10_dmd2.get_config(single)
    # With references what is None stays a value of its type, that can be given.
    config = config.to_dict(preserve_field_references=True)
    stages, name = config.pop("stages"), config.pop("name")
    stages["student"]["partition"] = True
    if size == "cpu_small":
        stages, name = smaller(stages), f"{name}_small"
        config["order"] = ("teacher", "tsm", "student", "evaluate")
    name = name.replace("dmd2", "msd2").replace("gddi", "msd2_gddi")
    return common.config(name, stages=stages, partition=dict(num_groups=2), **config)
