"""Several one-step students of 8x8 digits, each with classes of its own: MSD.

    python -m kdiff_jax.main --config=configs/digits_msd.py --workdir=runs/digits_msd

Song et al. 2024, arXiv:2410.23274. Five students of two classes each; another number
that divides ten: --config.partition.num_groups=2. First distribution matching, with
pairs of the teacher that are not filtered; then on with a discriminator, on real images
of the student's own classes. A teacher that is there may be taken:
--config.init.teacher=runs/digits/teacher

One student a job: --config.partition.only=K, after --stage=teacher and --stage=pairs;
when all are done, the command above joins and evaluates them.
Expected: fd_pixels in docs/results.md [measured].
"""

from configs import common, digits, digits_dmd, digits_dmd2


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    stages = dict(
        teacher=digits.teacher(tiny),
        pairs=digits_dmd.pairs(tiny),
        dm=digits_dmd.student(tiny, num_steps=1500, partition=True),
        adm=digits_dmd2.student(
            tiny,
            num_steps=600,
            lr=1e-4,
            init=dict(student="dm", fake_score="dm/fake_score"),
            partition=True,
        ),
        evaluate=dict(kind="evaluate", models=("teacher", "dm", "adm")),
    )
    order = ("teacher", "pairs", "dm", "adm", "evaluate")
    return common.config(
        "digits_msd",
        order=order,
        stages=stages,
        partition=dict(num_groups=5),
        **digits.sections(tiny),
    )
