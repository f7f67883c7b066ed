"""A recipe with every kind of stage, for tests: teacher, rounds, pairs, student.

Of points in the plane: the commands are the same, and a U-Net takes ten times as long
to trace, in every process that a test starts.
"""

from configs import common, digits


def get_config(num_steps: str = "12"):
    sections = dict(
        data=dict(name="mixture", num_images=256),
        model=dict(
            network=dict(name="mlp", channels=8, num_blocks=2),
            precondition=dict(name="v"),
            process=dict(name="cosine"),
            image_shape=(1, 1, 2),
            num_classes=8,
            sampler=dict(name="ddim", num_steps=4),
        ),
        evaluate=dict(num_images=20),
    )
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
    sections["train"] = dict(log_every=1, sample_every=1000, save_every=3)
    order = ("teacher", "progressive", "pairs", "student")
    return common.config("everything", order=order, stages=stages, **sections)
