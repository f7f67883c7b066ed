"""Four small denoisers of 8x8 digits, each a quarter of the times: O2MKD.

    python -m kdiff_jax.main --config=configs/digits_o2mkd.py --workdir=runs/digits_o2

Zhang & Ma 2024, arXiv:2410.04191; see configs/o2mkd.py for what is inferred. Students
with half the teacher's channels, sampled with as many steps. A trained folder is also
sampled by another sampler: python -m kdiff_jax.sample --sampler=dpm_solver.
A teacher that is there may be taken: --config.init.teacher=runs/digits/teacher
"""

from configs import common, digits, o2mkd


def get_config(size: str = "full"):
    common.check_size(size)
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
    return common.config(
        "digits_o2mkd",
        order=("teacher", "student", "evaluate"),
        stages=stages,
        partition=dict(num_ranges=2 if tiny else 4),
        **digits.sections(tiny),
    )
