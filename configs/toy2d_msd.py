"""Students of points in the plane, eight conditions among K of them: MSD's toy.

    python -m kdiff_jax.main --config=configs/toy2d_msd.py --workdir=runs/toy2d

Song et al. 2024, arXiv:2410.23274: the more students share the conditions, each a
mixture of Gaussians, the nearer they come to their teacher. Four students; other
numbers: --config.partition.num_groups=8. benchmarks/toy2d_msd.py runs 1, 2, 4 and 8
with three seeds, and plots the distance. Students are smaller than their teacher, so
that what they can hold matters; each first learns to denoise like it.
"""

from configs import common

NETWORK = dict(name="mlp", channels=128, num_blocks=4)
STUDENT = dict(network=dict(channels=48, num_blocks=3))


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    short = dict(num_steps=4, batch_size=8) if tiny else {}
    teacher = dict(
        method=dict(name="denoise", times="edm", weight="edm"),
        optim=dict(
            lr=2e-3, warmup_steps=100, schedule="cosine", ema_half_life=20_000.0
        ),
        train=dict(num_steps=6000, batch_size=512, result="ema") | short,
    )
    tsm = dict(
        method=dict(name="tsm", times="edm", weight="edm"),
        model=STUDENT,
        optim=dict(lr=2e-3, warmup_steps=50, schedule="cosine", ema_decay=0.99),
        sampler=dict(name="heun", num_steps=18),
        train=dict(num_steps=1000, batch_size=256, result="ema") | short,
        partition=True,
    )
    student = dict(
        method=dict(name="dmd2", student_every=2, gan_weight=0.0),
        model=STUDENT,
        init=dict(student="tsm"),
        optim=dict(
            lr=1e-3, b1=0.5, warmup_steps=50, schedule="cosine", ema_decay=0.995
        ),
        roles=dict(fake_score=dict(lr=2e-3)),
        sampler=dict(name="heun", num_steps=1),
        train=dict(num_steps=4000, batch_size=256, result="ema") | short,
        partition=True,
    )
    return common.config(
        "toy2d_msd",
        order=("teacher", "tsm", "student", "evaluate"),
        stages=dict(
            teacher=teacher,
            tsm=tsm,
            student=student,
            evaluate=dict(kind="evaluate", models=("teacher", "student")),
        ),
        partition=dict(num_groups=4),
        data=dict(name="mixture"),
        model=dict(
            network=NETWORK,
            precondition=dict(name="edm"),
            process=dict(name="edm"),
            image_shape=(1, 1, 2),
            num_classes=8,
            sampler=dict(name="heun", num_steps=18),
        ),
        train=common.tiny_train() if tiny else dict(log_every=200, sample_every=2000),
        evaluate=dict(num_images=20 if tiny else 10_000),
    )
