"""A class-conditional diffusion model of 8x8 digits: two CPU cores, three minutes.

    python -m kdiff_jax.main --config=configs/digits_teacher.py --workdir=runs/digits

Expected: fd_pixels of DDIM-64 in docs/results.md [measured].
"""

from configs import common, digits


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    stages = dict(
        teacher=digits.teacher(tiny),
        evaluate=dict(kind="evaluate", models=("teacher", "teacher@4", "teacher@1")),
    )
    order = ("teacher", "evaluate")
    return common.config(
        "digits_teacher", order=order, stages=stages, **digits.sections(tiny)
    )
