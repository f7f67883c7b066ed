from configs import common, digits


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    stages = dict(
        teacher=digits.teacher(tiny),
        progressive=dict(
            method=dict(name="progressive", weight="snr_trunc"),
            optim=dict(lr=5e-4, schedule="linear", clip_norm=1.0),
            sampler=dict(name="ddim"),
            rounds=dict(
                start_steps=4 if tiny else 64,
                end_steps=1,
                last_train_steps=4 if tiny else 700,
            ),
            train=dict(num_steps=4 if tiny else 350, batch_size=8 if tiny else 64),
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "teacher@1", "progressive")),
    )
    return common.config(
        "digits_progressive",
        data=dict(name="digits"),
        init=dict(teacher="teacher"),
        model=digits.model(tiny),
        stages=stages,
        order=("teacher", "progressive", "evaluate"),
        train=dict(log_every=2 if tiny else 100, sample_every=4 if tiny else 500),
        evaluate=dict(num_images=16 if tiny else 5000),
    )
