from configs import common, digits


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    stages = dict(
        teacher=digits.teacher(tiny),
        pairs=dict(
            kind="pairs",
            num_pairs=32 if tiny else 20480,
            num_held_out=8 if tiny else 1024,
            shard_size=16 if tiny else 2048,
            batch_size=16 if tiny else 256,
        ),
        student=dict(
            method=dict(name="denoising_student", loss="l2"),
            pairs="pairs",
            optim=dict(
                lr=1e-3, b2=0.98, warmup_steps=100, clip_norm=100.0, ema_decay=0.995
            ),
            sampler=dict(name="ddim", num_steps=1),
            train=dict(
                num_steps=4 if tiny else 3000,
                batch_size=8 if tiny else 64,
                result="best",
                validate_every=2 if tiny else 500,
            ),
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "teacher@1", "student")),
    )
    return common.config(
        "digits_student",
        data=dict(name="digits"),
        init=dict(teacher="teacher"),
        model=digits.model(tiny),
        stages=stages,
        order=("teacher", "pairs", "student", "evaluate"),
        train=dict(log_every=2 if tiny else 100, sample_every=4 if tiny else 500),
        evaluate=dict(num_images=16 if tiny else 5000),
    )
