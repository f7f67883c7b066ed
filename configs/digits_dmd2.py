"""DMD2 on 8x8 digits: a one-step student from the teacher's score and a GAN, no pairs.

    python -m kdiff_jax.main --config=configs/digits_dmd2.py --workdir=runs/digits_dmd2

A teacher that is there may be taken: --config.init.teacher=runs/digits/teacher

The GAN weighs more than in the paper: the matching loss is a mean over 64 numbers here,
12,288 in ImageNet-64, so that its gradient is larger, and that of the GAN is not.
Expected: fd_pixels of the student in docs/results.md [measured].
"""

from configs import common, digits


def student(
    tiny: bool,
    num_steps: int = 3000,
    lr: float = 3e-4,
    ema_decay: float = 0.995,
    **more,
) -> dict:
    train = dict(num_steps=num_steps, batch_size=64, result="ema")
    return dict(
        method=dict(
            name="dmd2",
            student_every=2,
            fake_weight="v_mse",  # of the teacher
            gan_weight=0.1,
            disc_weight=0.1,
            head_groups=4,
        ),
        optim=dict(
            lr=lr, b1=0.5, warmup_steps=50, schedule="cosine", ema_decay=ema_decay
        ),
        # What it learns from changes all the time: it must be faster.
        roles=dict(fake_score=dict(lr=1e-3), disc=dict(lr=1e-3)),
        sampler=dict(name="ddim", num_steps=1),
        train=train | (dict(num_steps=6, batch_size=8) if tiny else {}),
        **more,
    )


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    stages = dict(
        teacher=digits.teacher(tiny),
        student=student(tiny),
        evaluate=dict(kind="evaluate", models=("teacher", "teacher@1", "student")),
    )
    order = ("teacher", "student", "evaluate")
    return common.config(
        "digits_dmd2", order=order, stages=stages, **digits.sections(tiny)
    )
