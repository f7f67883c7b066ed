"""Denoising Student on unconditional CIFAR-10: DDPM teacher, one-step student.

    python -m kdiff_jax.main --config=configs/cifar10_student.py --workdir=runs/ds

The teacher is the moving average of DDPM's CIFAR-10 model, `ema_cifar10` of
pesser/pytorch_diffusion at teachers/, read as it is; one is trained as DDPM's [memory],
which takes days, with --config.init.teacher=teacher. Settings of the student [code].
Hardware: 8 GPUs for the student [code]; a TPU v2-8 with
--config.stages.student.train.num_microbatches=2. Expected: FID 9.36 [secondary], IS
8.36 [memory].

`configs/cifar10_student.py:cpu` is a class-conditional network of 0.9 M parameters, for
two CPU cores and about two hours. Its teacher is that of
cifar10_progressive.py:cpu, and may be taken from there: --config.init.teacher=W/teacher

The set is read from a prepared tensorflow-datasets folder, or from a file:
--config.data.name=npz --config.data.path=cifar10.npz
"""

from configs import common, luhman, small_unet, teachers

SHAPE = (32, 32, 3)
DATA = dict(name="cifar10", path="", flip=True)
ORDER = ("teacher", "pairs", "student", "evaluate")
SAMPLER = dict(num_steps=100, spacing="quadratic")


def get_config(size: str = "full"):
    common.check_size(size, ("full", "cpu", "tiny"))
    models = ("teacher", "teacher@1", "student")
    if size == "cpu":
        stages = dict(
            teacher=small_unet.teacher(tiny=False),
            pairs=small_unet.pairs(tiny=False),
            student=small_unet.student(tiny=False, loss="l1"),
            evaluate=dict(kind="evaluate", models=models),
        )
        sections = small_unet.sections(tiny=False, shape=SHAPE, data=DATA)
        return common.config(
            "cifar10_student_cpu", order=ORDER, stages=stages, **sections
        )
    tiny = size == "tiny"
    sections = luhman.sections(
        tiny,
        network=dict(dropout=0.1),  # the defaults of ddpm_unet are this network's
        shape=SHAPE,
        sampler=SAMPLER,
        data=DATA | dict(use_labels=False),
    )
    stages = dict(
        teacher=luhman.teacher(
            tiny, lr=2e-4, train=dict(num_steps=800_000, batch_size=128)
        ),
        **luhman.stages(
            tiny,
            sampler=SAMPLER,
            pairs=dict(
                num_pairs=1_024_000,
                num_held_out=51_200,
                shard_size=102_400,
                batch_size=1024,
            ),
            loss="l1",
            optim=dict(lr=2e-4, b2=0.98, warmup_steps=5000, ema_decay=0.995),
            # The authors score held-out pairs at the end of an epoch of 2000 steps.
            train=dict(num_steps=50_000, batch_size=512, validate_every=2000),
            models=models,
        ),
    )
    begin = {} if tiny else teachers.bring("ema_diffusion_cifar10_model-790000.ckpt")
    return common.config(
        "cifar10_student", order=ORDER, stages=stages, **begin, **sections
    )
