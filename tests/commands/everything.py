"""A recipe with every kind of stage, for tests; the last trains two students."""

import points

from configs import common, digits


def get_config(num_steps: str = "12"):
    sections = points.sections()
    teacher = digits.teacher(tiny=True)
    train = dict(num_steps=int(num_steps), batch_size=8)
    stages = dict(
        teacher=teacher | dict(train=train | dict(result="ema")),
        progressive=dict(
            method=dict(name="progressive"),
            optim=dict(lr=5e-4, schedule="linear"),
            sampler=dict(name="ddim"),
            rounds=dict(start_steps=4, end_steps=1),
            train=train,
        ),
        pairs=dict(
            kind="pairs", num_pairs=64, num_held_out=8, shard_size=8, batch_size=8
        ),
        student=dict(
            method=dict(name="denoising_student", loss="l1"),
            pairs="pairs",
            optim=dict(lr=1e-3, ema_decay=0.9),
            sampler=dict(name="ddim", num_steps=1),
            train=train | dict(result="best", validate_every=3),
        ),
    )
    # Two students, each with a discriminator and its power iterations: a carry.
    stages["many"] = dict(
        method=dict(name="gdd", width=2, r1_every=3),
        optim=dict(lr=1e-3, b1=0.5, schedule="cosine", ema_decay=0.9),
        sampler=dict(name="ddim", num_steps=1),
        train=train | dict(result="ema"),
        partition=True,
    )
    stages["evaluate"] = dict(kind="evaluate", models=("many",), features="")
    sections["train"] = dict(log_every=1, sample_every=1000, save_every=3)
    return common.config(
        "everything",
        order=("teacher", "progressive", "pairs", "student", "many"),
        stages=stages,
        partition=dict(num_groups=2),
        **sections,
    )
