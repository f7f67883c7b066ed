"""Progressive Distillation on unconditional CIFAR-10, 8192 -> 1 steps.

    python -m kdiff_jax.main --config=configs/cifar10_progressive.py --workdir=runs/pd

Settings [code], but for the teacher's length [memory]. Hardware: a TPU v4-16, about
four days [memory], or 8 GPUs [inferred]. Expected: FID with 1 step 9.12, 2 steps 4.51,
4 steps 3.00, 8 steps 2.57, means of four seeds [paper, Table 2].

`configs/cifar10_progressive.py:cpu` is a class-conditional network of 0.9 M parameters
from 16 steps, for two CPU cores and about two hours.

The set is read from a prepared tensorflow-datasets folder, or from a file:
--config.data.name=npz --config.data.path=cifar10.npz
"""

from configs import common, progressive_paper, small_unet

SHAPE = (32, 32, 3)
DATA = dict(name="cifar10", path="", flip=True)
MODELS = ("teacher", "teacher@4", "teacher@1", "progressive")


def get_config(size: str = "full"):
    common.check_size(size, ("full", "cpu", "tiny"))
    order = ("teacher", "progressive", "evaluate")
    if size == "cpu":
        stages = dict(
            teacher=small_unet.teacher(tiny=False),
            progressive=small_unet.progressive(tiny=False),
            evaluate=dict(kind="evaluate", models=MODELS),
        )
        sections = small_unet.sections(tiny=False, shape=SHAPE, data=DATA)
        return common.config(
            "cifar10_progressive_cpu", order=order, stages=stages, **sections
        )
    tiny = size == "tiny"
    sections = progressive_paper.sections(
        tiny,
        network=dict(dropout=0.2),  # the defaults of iddpm_unet are this network's
        output="x",
        shape=SHAPE,
        start_steps=8192,
        data=DATA | dict(use_labels=False),
    )
    stages = progressive_paper.stages(
        tiny,
        base=dict(weight_decay=1e-3),
        base_lr=2e-4,
        base_steps=800_000,  # [memory]
        batch_size=128,
        lr=5e-5,
        start_steps=8192,
    )
    return common.config("cifar10_progressive", order=order, stages=stages, **sections)
