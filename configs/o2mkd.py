"""What the recipes of O2MKD (Zhang & Ma 2024, arXiv:2410.04191) share [inferred].

One teacher, and several small students that each denoise a range of times: to the
teacher's output, the data, and the teacher's features, beginning with evenly spaced
channels of the teacher. Only abstract and introduction of the paper could be had: every
number here is a reading of it, and results are ours, not the paper's.
"""

from configs import common, luhman


def student(
    tiny: bool,
    *,
    channels: int,
    lr: float,
    batch_size: int,
    sampler: dict,
    num_steps: int = 200_000,
    num_microbatches: int = 1,
    **more,
) -> dict:
    """A stage of students with `channels` times the teacher's multiples."""
    batch = dict(batch_size=batch_size, num_microbatches=num_microbatches)
    short = dict(num_steps=4, batch_size=8, num_microbatches=1) if tiny else {}
    network = dict(channels=4 if tiny else channels, dropout=0.0)
    return dict(
        method=dict(
            name="tsm",
            weight="snr",  # errors of eps
            task_weight=1.0,
            features="fitnet",
        ),
        model=dict(network=network),
        init=dict(student="teacher"),
        channels="even",
        partition=True,
        optim=dict(lr=lr, ema_decay=0.9999),
        sampler=dict(name="ddim", **sampler) | (dict(num_steps=4) if tiny else {}),
        train=dict(num_steps=num_steps, result="ema") | batch | short,
        **more,
    )


def after_common(student: dict, num_steps: int) -> dict:
    """The stages `common`, one student of all times, and `student`, copies of it.

    Each is given its adapters too, where its widths are others than the teacher's: from
    random ones, features would undo what it knows.
    """
    train = student["train"] | dict(num_steps=num_steps)
    init = dict(student="common")
    if student.get("channels"):
        init["adapters"] = "common/adapters"
    rules = {key: "" for key in ("channels", "blocks") if key in student}
    return dict(
        common=student | dict(train=train, partition=False),
        student=student | dict(init=init, **rules),
    )


def ddpm(
    name: str,
    size: str,
    *,
    network: dict,
    shape,
    sampler: dict,
    data: dict,
    begin: dict,
    teacher_lr: float,
    lr: float,
    batch_size: int,
    num_microbatches: int = 1,
    channels: int = 64,
    num_ranges: int = 4,
    common_steps: int = 0,
):
    """The recipe `name` from a DDPM; see `after_common` for `common_steps`."""
    tiny = size == "tiny"
    one = student(
        tiny,
        channels=channels,
        lr=lr,
        batch_size=batch_size,
        num_microbatches=num_microbatches,
        sampler=sampler,
    )
    stages = after_common(one, common_steps) if common_steps else dict(student=one)
    order, models = (*stages, "evaluate"), ("teacher", *stages)
    stages["evaluate"] = dict(kind="evaluate", models=models)
    if tiny:
        train = dict(num_steps=4, batch_size=8)
        stages["teacher"] = luhman.teacher(tiny, lr=teacher_lr, train=train)
        order, begin = ("teacher", *order), {}
    return common.config(
        name,
        order=order,
        stages=stages,
        partition=dict(num_ranges=2 if tiny else num_ranges),
        **begin,
        **luhman.sections(
            tiny, network=network, shape=shape, sampler=sampler, data=data
        ),
    )
