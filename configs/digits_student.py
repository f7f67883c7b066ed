"""The quick start: a teacher of 8x8 digits and its one-step Denoising Student.

    python -m kdiff_jax.main --config=configs/digits_student.py --workdir=runs/digits

Two CPU cores, under ten minutes. Expected: fd_pixels of the student at most 1.5 x the
teacher's with 64 steps, see docs/results.md [measured].
"""

from configs import common, digits


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    pairs = dict(
        kind="pairs",
        num_pairs=24576,
        num_held_out=1024,
        shard_size=4096,
        batch_size=256,
        # As near to the exact flow as 64 steps of DDIM, at a quarter of the cost; fewer
        # pairs and the student overfits.
        sampler=dict(name="dpm_solver", num_steps=16),
    )
    train = dict(num_steps=2500, batch_size=64, result="best", validate_every=500)
    short = dict(num_steps=4, batch_size=8, validate_every=2)
    stages = dict(
        teacher=digits.teacher(tiny),
        pairs=common.tiny_pairs() if tiny else pairs,
        student=dict(
            method=dict(name="denoising_student", loss="l2"),
            pairs="pairs",
            optim=dict(
                lr=1e-3, b2=0.98, warmup_steps=100, schedule="cosine", ema_decay=0.995
            ),
            sampler=dict(name="ddim", num_steps=1),
            train=train | (short if tiny else {}),
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "teacher@1", "student")),
    )
    order = ("teacher", "pairs", "student", "evaluate")
    return common.config(
        "digits_student", order=order, stages=stages, **digits.sections(tiny)
    )
