"""SiD on 8x8 digits: a one-step student from the teacher's score alone.

    python -m kdiff_jax.main --config=configs/digits_sid.py --workdir=runs/digits_sid

A teacher that is there may be taken: --config.init.teacher=runs/digits/teacher
"""

from configs import common, digits


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    train = dict(num_steps=1500, batch_size=64, result="ema")
    short = dict(num_steps=4, batch_size=8)
    stages = dict(
        teacher=digits.teacher(tiny),
        student=dict(
            method=dict(
                name="sid",
                alpha=1.0,
                sigma_init=2.5,
                fake_weight="v_mse",  # of the teacher
            ),
            optim=dict(
                lr=5e-4, b1=0.0, warmup_steps=50, schedule="cosine", ema_decay=0.99
            ),
            train=train | (short if tiny else {}),
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "teacher@1", "student")),
    )
    order = ("teacher", "student", "evaluate")
    return common.config(
        "digits_sid", order=order, stages=stages, **digits.sections(tiny)
    )
