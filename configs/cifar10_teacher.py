"""EDM's class-conditional CIFAR-10 model: DDPM++ with non-leaking augmentation.

    python -m kdiff_jax.main --config=configs/cifar10_teacher.py --workdir=runs/edm

Karras et al. 2022, arXiv:2206.00364; settings of its Table 7 and released code [code].
Hardware: 8 GPUs, about two days on V100 [code], or a TPU v4-16 [inferred]. Expected:
FID 1.79 with 35 evaluations (18 steps of Heun), the lowest of three sets of images
[code].

Unlike in the authors' code, a gradient that is not finite stops the run instead of
being replaced by numbers: --config.stages.teacher.optim.zero_nonfinite=True. Affine
changes of an image are sampled once, where theirs go through twice the resolution.
"""

import math

from configs import common

SHAPE = (32, 32, 3)


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    shape = (16, 16, 3) if tiny else SHAPE
    network = dict(name="song_unet", dropout=0.13)
    model = dict(
        network=common.tiny_network("song_unet", dropout=0.13) if tiny else network,
        precondition=dict(name="edm"),
        process=dict(name="edm"),
        image_shape=shape,
        num_classes=10,
        augment_dim=9,
        sampler=dict(name="heun", num_steps=3 if tiny else 18),
    )
    train = dict(num_steps=390_625, batch_size=512, result="ema")  # 200 Mimg
    teacher = dict(
        method=dict(name="denoise", times="edm", weight="edm"),
        optim=dict(
            lr=1e-3,
            # The loss is a mean over the numbers of an image, the authors' their sum.
            eps=1e-8 / math.prod(SHAPE),
            warmup_steps=19_531,  # 10 Mimg
            ema_half_life=500_000.0,
        ),
        train=train | (dict(num_steps=4, batch_size=8) if tiny else {}),
    )
    stages = dict(teacher=teacher, evaluate=dict(kind="evaluate", models=("teacher",)))
    data = common.tiny_data(shape) if tiny else dict(name="cifar10", path="")
    return common.config(
        "cifar10_teacher",
        order=("teacher", "evaluate"),
        stages=stages,
        data=data | dict(augment_prob=0.12),
        model=model,
        train=common.tiny_train() if tiny else dict(sample_every=5000),
        evaluate=common.evaluate(tiny),
    )
