"""A recipe with every kind of stage, as small as one can be: images of one pixel."""

from configs import common


def get_config():
    train = dict(num_steps=6, batch_size=8)
    optim = dict(lr=1e-2, eps=1e-2, schedule="constant", ema_decay=0.5)
    stages = dict(
        teacher=dict(
            method=dict(name="denoise", weight="v_mse"),
            optim=optim,
            train=train | dict(result="ema"),
        ),
        pairs=dict(
            kind="pairs",
            num_pairs=200,
            num_held_out=100,
            shard_size=100,
            batch_size=100,
        ),
        student=dict(
            method=dict(name="denoising_student", loss="l2"),
            pairs="pairs",
            optim=optim,
            sampler=dict(name="ddim", num_steps=1),
            train=train | dict(result="best", validate_every=2),
        ),
        many=dict(
            method=dict(name="tsm", weight="v_mse", features="none"),
            model=dict(network=dict(channels=6)),
            optim=optim,
            sampler=dict(name="ddim", num_steps=2),
            train=train | dict(result="ema"),
            partition=True,
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "student", "many")),
    )
    return common.config(
        "trials",
        order=("teacher", "pairs", "student", "many", "evaluate"),
        stages=stages,
        partition=dict(num_groups=2),
        data=dict(name="npz", path="data.npz"),
        model=dict(
            network=dict(name="mlp", channels=8, num_blocks=1),
            precondition=dict(name="v"),
            process=dict(name="cosine"),
            image_shape=(1, 1, 3),
            num_classes=4,
            sampler=dict(name="ddim", num_steps=2),
        ),
        train=dict(log_every=1, sample_every=1000, save_every=2),
        evaluate=dict(num_images=16, batch_size=16),
    )
