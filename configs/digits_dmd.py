"""DMD on 8x8 digits: distribution matching and a few pairs make a one-step student.

    python -m kdiff_jax.main --config=configs/digits_dmd.py --workdir=runs/digits_dmd

A teacher that is there may be taken: --config.init.teacher=runs/digits/teacher
"""

from configs import common, digits


def pairs(tiny: bool) -> dict:
    if tiny:
        return common.tiny_pairs()
    return dict(
        kind="pairs",
        num_pairs=24576,
        num_held_out=1024,
        shard_size=4096,
        batch_size=256,
        sampler=dict(name="dpm_solver", num_steps=16),
    )


def student(
    tiny: bool, num_steps: int = 3000, ema_decay: float = 0.995, **more
) -> dict:
    train = dict(num_steps=num_steps, batch_size=64, result="ema")
    return dict(
        method=dict(name="dmd", regression_weight=1.0, fake_weight="v_mse"),
        pairs="pairs",
        optim=dict(
            lr=3e-4, b1=0.5, warmup_steps=50, schedule="cosine", ema_decay=ema_decay
        ),
        # What it learns from changes all the time: it must be faster.
        roles=dict(fake_score=dict(lr=1e-3)),
        sampler=dict(name="ddim", num_steps=1),
        train=train | (dict(num_steps=4, batch_size=8) if tiny else {}),
        **more,
    )


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    stages = dict(
        teacher=digits.teacher(tiny),
        pairs=pairs(tiny),
        student=student(tiny),
        evaluate=dict(kind="evaluate", models=("teacher", "teacher@1", "student")),
    )
    order = ("teacher", "pairs", "student", "evaluate")
    return common.config(
        "digits_dmd", order=order, stages=stages, **digits.sections(tiny)
    )
