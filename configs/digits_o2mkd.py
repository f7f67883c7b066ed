"""Four small denoisers of 8x8 digits, each a quarter of the times: O2MKD.

    python -m kdiff_jax.main --config=configs/digits_o2mkd.py --workdir=runs/digits_o2

Zhang & Ma 2024, arXiv:2410.04191; see configs/o2mkd.py for what is inferred. Students
with half the teacher's channels, sampled with as many steps. A trained folder is also
sampled by another sampler: python -m kdiff_jax.sample --sampler=dpm_solver.
A teacher that is there may be taken: --config.init.teacher=runs/digits/teacher

`:progressive` behind the name of the file: then each student halves the steps of its
own range, by Progressive Distillation, until it answers for one: 4 steps in all. There
the number of ranges is a power of two, at most rounds.end_steps.
"""

from configs import common, digits, o2mkd


def halvings() -> dict:
    """Rounds of all students, each of which has itself for its first teacher."""
    return dict(
        method=dict(name="progressive", weight="snr_trunc"),
        init=dict(teacher="student"),
        optim=dict(lr=5e-4, schedule="linear", clip_norm=1.0),
        sampler=dict(name="ddim"),
        rounds=dict(start_steps=64, end_steps=4),
        train=dict(num_steps=350, batch_size=64),
        partition=True,
    )


def get_config(size: str = "full"):
    common.check_size(size, ("full", "progressive", "tiny"))
    tiny = size == "tiny"
    student = o2mkd.student(
        tiny,
        channels=16,
        lr=1e-3,
        batch_size=64,
        num_steps=1500,
        sampler=dict(num_steps=64),
    )
    student["method"]["weight"] = "v_mse"  # of the teacher
    student["optim"] = dict(
        lr=1e-3, warmup_steps=50, schedule="cosine", ema_half_life=4000.0
    )
    stages = dict(
        teacher=digits.teacher(tiny),
        student=student,
        evaluate=dict(kind="evaluate", models=("teacher", "student")),
    )
    order, name = ["teacher", "student", "evaluate"], "digits_o2mkd"
    if size == "progressive":
        order.insert(2, "progressive")
        stages["progressive"] = halvings()
        stages["evaluate"]["models"] += ("progressive",)
        name += "_progressive"
    return common.config(
        name,
        order=tuple(order),
        stages=stages,
        partition=dict(num_ranges=2 if tiny else 4),
        **digits.sections(tiny),
    )
