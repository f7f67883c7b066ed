from configs import cifar10, common


def get_config(size: str = "full"):
    common.check_size(size, cifar10.SIZES)
    tiny = size == "tiny"
    stages = dict(
        teacher=cifar10.small_teacher(size),
        progressive=dict(
            method=dict(name="progressive", weight="snr_trunc"),
            optim=dict(lr=3e-4, schedule="linear", clip_norm=1.0),
            sampler=dict(name="ddim", clip=True),
            rounds=dict(
                start_steps=4 if tiny else 32,
                end_steps=1,
                last_train_steps=4 if tiny else 500,
            ),
            train=dict(num_steps=4 if tiny else 300, batch_size=8 if tiny else 64),
        ),
        evaluate=dict(
            kind="evaluate", models=("teacher", "teacher@4", "teacher@1", "progressive")
        ),
    )
    return common.config(
        "cifar10_progressive",
        data=cifar10.data(size),
        init=dict(teacher="teacher"),
        model=cifar10.small_model(size),
        stages=stages,
        order=("teacher", "progressive", "evaluate"),
        train=dict(log_every=2 if tiny else 50, sample_every=4 if tiny else 500),
        evaluate=dict(num_images=16 if tiny else 10_000, features="pixels", weights=""),
    )
