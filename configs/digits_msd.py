"""Several one-step students of 8x8 digits, each with classes of its own: MSD.

    python -m kdiff_jax.main --config=configs/digits_msd.py --workdir=runs/digits_msd

Song et al. 2024, arXiv:2410.23274. Five students of two classes each; another number
that divides ten: --config.partition.num_groups=2. First distribution matching, with
pairs of the teacher that are not filtered; then on with a discriminator, on real images
of the student's own classes. A teacher that is there may be taken:
--config.init.teacher=runs/digits/teacher

`:small` behind the name of the file: students with half the teacher's channels, which
first learn to denoise like it. Without that: --config.stages.dm.init.student=random
--config.order="('teacher','pairs','dm','adm','evaluate')"

One student a job: --config.partition.only=K, after --stage=teacher and --stage=pairs;
when all are done, the command above joins and evaluates them.
"""

from configs import common, digits, digits_dmd, digits_dmd2

SMALL = dict(network=dict(channels=16))


def tsm() -> dict:
    """Teacher score matching: how students that are smaller than the teacher begin."""
    return dict(
        method=dict(name="tsm", weight="v_mse"),  # of the teacher
        model=SMALL,
        optim=dict(lr=1e-3, warmup_steps=50, schedule="cosine", ema_decay=0.98),
        sampler=dict(name="ddim", num_steps=16),
        train=dict(num_steps=500, batch_size=64, result="ema"),
        partition=True,
    )


def get_config(size: str = "full"):
    common.check_size(size, ("full", "small", "tiny"))
    tiny = size == "tiny"
    stages = dict(
        teacher=digits.teacher(tiny),
        pairs=digits_dmd.pairs(tiny),
        dm=digits_dmd.student(tiny, num_steps=1000, ema_decay=0.99, partition=True),
        adm=digits_dmd2.student(
            tiny,
            num_steps=400,
            lr=1e-4,
            ema_decay=0.96,  # of 200 updates: every second step is the student's
            init=dict(student="dm", fake_score="dm/fake_score"),
            partition=True,
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "dm", "adm")),
    )
    order = ["teacher", "pairs", "dm", "adm", "evaluate"]
    if size == "small":
        order.insert(2, "tsm")
        stages["tsm"] = tsm()
        stages["dm"] |= dict(model=SMALL, init=dict(student="tsm"))
        stages["adm"] |= dict(model=SMALL)
    return common.config(
        "digits_msd" if size != "small" else "digits_msd_small",
        order=tuple(order),
        stages=stages,
        partition=dict(num_groups=5),
        **digits.sections(tiny),
    )
