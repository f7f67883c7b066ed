"""A one-step student of a public EDM teacher, by regression on the teacher's samples.

What the recipes *_edm share: Denoising Student (Luhman & Luhman 2021) with a teacher
of Karras et al. (2022), its Heun sampler, and its network at sigma = 80. Nobody has
published such a run: sampler and network are EDM's [code], optimizer, batch and lengths
those of Luhman's CIFAR-10 run, its loss that of Luhman's other sets, whatever the
images [inferred].
"""

from configs import common, luhman, teachers


def get(
    name: str,
    size: str,
    *,
    teacher: str,
    network: dict,
    shape,
    num_classes: int,
    data: dict,
    num_steps: int,
    augment_dim: int = 9,
):
    """The recipe `name`; `num_steps` is the teacher's, 2 N - 1 evaluations."""
    common.check_size(size)
    tiny = size == "tiny"
    if tiny:
        network = common.tiny_network(network["name"])
        shape, num_steps = (16, 16, 3), 3
    sampler = dict(name="heun", num_steps=num_steps)
    model = dict(
        network=network,
        precondition=dict(name="edm"),
        process=dict(name="edm"),
        image_shape=shape,
        num_classes=num_classes,
        augment_dim=augment_dim,
        sampler=sampler,
    )
    stages = luhman.stages(
        tiny,
        sampler=sampler,
        pairs=dict(
            num_pairs=1_024_000, num_held_out=10_240, shard_size=25_600, batch_size=1024
        ),
        loss="l2",
        optim=dict(lr=2e-4, b2=0.98, warmup_steps=5000, ema_decay=0.995),
        train=dict(num_steps=50_000, batch_size=512, validate_every=2000),
        models=("teacher", "student"),
    )
    # The student regresses one sharp target per noise: no dropout.
    stages["student"]["model"] = dict(network=dict(dropout=0.0))
    order, begin = ("pairs", "student", "evaluate"), teachers.bring(teacher)
    if tiny:
        stages["teacher"] = dict(
            method=dict(name="denoise", times="edm", weight="edm"),
            optim=dict(lr=1e-3, ema_half_life=500_000.0),
            train=dict(num_steps=4, batch_size=8, result="ema"),
        )
        order, begin = ("teacher", *order), {}
    return common.config(
        name,
        order=order,
        stages=stages,
        data=common.tiny_data(shape) if tiny else data,
        model=model,
        train=common.tiny_train() if tiny else dict(sample_every=5000),
        evaluate=common.evaluate(tiny),
        **begin,
    )
