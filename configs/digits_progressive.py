"""Progressive Distillation of 8x8 digits, 64 -> 1 steps, on two CPU cores.

    python -m kdiff_jax.main --config=configs/digits_progressive.py --workdir=runs/pd

A quarter of an hour. Expected: table of fd_pixels against steps in docs/results.md
[measured].
"""

from configs import common, digits


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    rounds = dict(start_steps=64, end_steps=1, last_train_steps=1600)
    train = dict(num_steps=350, batch_size=64)
    stages = dict(
        teacher=digits.teacher(tiny),
        progressive=dict(
            method=dict(name="progressive", weight="snr_trunc"),
            optim=dict(lr=5e-4, schedule="linear", clip_norm=1.0),
            sampler=dict(name="ddim"),
            rounds=common.tiny_rounds() if tiny else rounds,
            train=dict(num_steps=4, batch_size=8) if tiny else train,
        ),
        evaluate=dict(
            kind="evaluate", models=("teacher", "teacher@4", "teacher@1", "progressive")
        ),
    )
    order = ("teacher", "progressive", "evaluate")
    return common.config(
        "digits_progressive", order=order, stages=stages, **digits.sections(tiny)
    )
