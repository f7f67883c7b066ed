"""What the recipes of Salimans & Ho (2022, arXiv:2202.00512) share.

Their code clips the gradient of each device before averaging; here the averaged
gradient is clipped, so that the result does not depend on the number of devices. The
last two rounds are twice as long as the others [paper]; in their released configs all
are alike [code].
"""

from configs import common

# Each is 50,000 images: of the teacher with all its steps, and of all rounds, that is
# more work than the training. `--config.stages.evaluate.models` takes others.
SHOWN = ("teacher@256", *(f"progressive_{n}" for n in (8, 4, 2, 1)))
SHOWN_TINY = ("teacher", "progressive")


def stages(
    tiny: bool,
    *,
    base: dict,
    base_lr: float,
    base_steps: int,
    batch_size: int,
    lr: float,
    start_steps: int,
    num_microbatches: int = 1,
) -> dict:
    """Teacher, rounds of 50 k updates (100 k for 2 and 1 steps), evaluation.

    Args:
        base: What the optimizer of the teacher has beside the others; weight decay is
            decoupled [memory].
        base_lr: Learning rate of the teacher.
        base_steps: Updates of the teacher.
        batch_size: Batch size of the teacher and of all rounds.
        lr: Learning rate at the beginning of each round; it falls to 0.
        start_steps: Sampling steps of the teacher.
        num_microbatches: Parts of each batch.
    """
    short = dict(num_steps=4, batch_size=8)
    batch = dict(batch_size=batch_size, num_microbatches=num_microbatches)
    train = dict(num_steps=50_000, **batch)
    rounds = dict(start_steps=start_steps, end_steps=1, last_train_steps=100_000)
    teacher = dict(
        method=dict(name="denoise", weight="snr_trunc"),
        optim=dict(
            lr=base_lr, warmup_steps=1000, clip_norm=1.0, ema_decay=0.9999, **base
        ),
        train=dict(num_steps=base_steps, result="ema") | (short if tiny else batch),
    )
    progressive = dict(
        method=dict(name="progressive", weight="snr_trunc"),
        optim=dict(lr=lr, schedule="linear", clip_norm=1.0),
        sampler=dict(name="ddim", clip=True),
        rounds=common.tiny_rounds() if tiny else rounds,
        train=short if tiny else train,
    )
    return dict(
        teacher=teacher,
        progressive=progressive,
        evaluate=dict(kind="evaluate", models=SHOWN_TINY if tiny else SHOWN),
    )


def sections(
    tiny: bool,
    *,
    network: dict,
    output: str,
    shape,
    start_steps: int,
    data: dict,
    num_classes: int = 0,
) -> dict:
    """data, model, train and evaluate."""
    dropout = {"dropout": network.pop("dropout")}
    small = common.tiny_network("iddpm_unet", emb_channels=16)
    steps = 4 if tiny else start_steps
    train = common.tiny_train() if tiny else dict(sample_every=5000)
    # With weight max(SNR, 1) the loss of a new network that predicts x0 is heavy-tailed
    # near t = 0, P(loss > s) ~ s^-1/2: a line 100 times the median is nothing unusual.
    train |= dict(spike_factor=1e4) if output == "x" else {}
    model = dict(
        network=(small if tiny else dict(name="iddpm_unet", **network)) | dropout,
        precondition=dict(name=output),
        process=dict(name="cosine"),
        image_shape=(16, 16, 3) if tiny else shape,
        num_classes=num_classes,
        sampler=dict(name="ddim", num_steps=steps, clip=True),
    )
    return dict(
        data=common.tiny_data((16, 16, 3)) if tiny else data,
        model=model,
        train=train,
        evaluate=common.evaluate(tiny),
    )
