"""What the recipes of DMD and DMD2 on public EDM teachers share.

Yin et al. 2024, arXiv:2311.18828 [paper] and arXiv:2405.14867 [code]. Both train with
AdamW, over 7 GPUs, with gradients clipped at 10 and constant rates after a warm-up of
500 steps; in the code of the second the schedule advances once for each GPU, so that
its warm-up is over after 72. DMD2 has no moving average [code]; of DMD none is known.
"""

from configs import common, teachers

# The distance of the paper's regression, LPIPS; its files lie beside the teacher.
LPIPS = dict(
    distance="lpips",
    lpips_weights="teachers/vgg16-397923af.pth",
    lpips_heads="teachers/vgg.pth",
)
OPTIM = dict(weight_decay=0.01, warmup_steps=500, clip_norm=10.0)


def student(tiny: bool, *, method: dict, lr: float, train: dict, **more) -> dict:
    """A stage of one-step training; the student has no dropout."""
    short = dict(num_steps=4, batch_size=8, num_microbatches=1) if tiny else {}
    return dict(
        method=method,
        model=dict(network=dict(dropout=0.0)),
        optim=dict(lr=lr, **OPTIM),
        sampler=dict(name="heun", num_steps=1),
        train=train | short,
        **more,
    )


def get(
    name: str,
    size: str,
    *,
    teacher: str,
    network: dict,
    shape,
    num_classes: int,
    augment_dim: int,
    data: dict,
    num_steps: int,
    stages,
    models=("teacher", "student"),
    **more,
):
    """The recipe `name`.

    Args:
        stages: (tiny) -> the stages between the teacher and the evaluation, in order.
        num_steps: Of the teacher's Heun sampler, 2 N - 1 evaluations.
        models: What is evaluated.
        more: Further sections, as `partition`.

    The others are those of the model and the data.
    """
    common.check_size(size)
    tiny = size == "tiny"
    if tiny:
        network, shape = common.tiny_network(network["name"]), (16, 16, 3)
    model = dict(
        network=network,
        precondition=dict(name="edm"),
        process=dict(name="edm"),
        image_shape=shape,
        num_classes=10 if tiny else num_classes,
        augment_dim=augment_dim,
        sampler=dict(name="heun", num_steps=3 if tiny else num_steps),
    )
    middle = stages(tiny)
    made, begin = {}, teachers.bring(teacher)
    if tiny:
        begin = {}
        made["teacher"] = dict(
            method=dict(name="denoise", times="edm", weight="edm"),
            optim=dict(lr=1e-3, ema_half_life=500_000.0),
            train=dict(num_steps=4, batch_size=8, result="ema"),
        )
    made |= middle | dict(evaluate=dict(kind="evaluate", models=models))
    return common.config(
        name,
        order=tuple(made),
        stages=made,
        data=common.tiny_data(shape) if tiny else data,
        model=model,
        train=common.tiny_train() if tiny else dict(sample_every=5000),
        evaluate=common.evaluate(tiny),
        **begin,
        **more,
    )
