"""A recipe of one stage whose state lies in parts, for tests of hosts."""

import points

from configs import common, digits


def get_config(layout: str = "zero1"):
    sections = points.sections()
    sections["model"]["network"]["channels"] = 64
    teacher = digits.teacher(tiny=True)
    teacher["optim"] |= points.OPTIM
    return common.config(
        "in_parts",
        order=("teacher",),
        stages=dict(teacher=teacher),
        train=dict(log_every=1, sample_every=4, save_every=2, layout=layout),
        **sections,
    )
