"""Progressive Distillation of 8x8 digits, 64 -> 1 steps, on two CPU cores.

    python -m kdiff_jax.main --config=configs/digits_progressive.py --workdir=runs/pd

A quarter of an hour. Expected: table of fd_pixels against steps in docs/results.md
[measured].

`:guided` behind the name of the file: guided distillation in two stages (Meng et al.
2023, arXiv:2210.03142). `matching` makes of the teacher, which was trained without
labels as well, a network that is told the strength of guidance, 1 to 4; rounds halve
the steps of that. All are sampled at any strength of the range, and a step is one
evaluation: python -m kdiff_jax.sample --checkpoint=runs/pd/progressive_1
--output=grid.png --sampler.guidance=3. Numbers of stage `matching` are [inferred].
"""

from configs import common, digits


def matching() -> dict:
    """A student that is told its guidance, of the guided teacher."""
    return dict(
        method=dict(name="tsm", weight="snr_trunc"),
        init=dict(student="teacher"),
        model=dict(guidance_range=(1.0, 4.0)),
        optim=dict(lr=1e-3, warmup_steps=50, schedule="cosine", clip_norm=1.0),
        train=dict(num_steps=1500, batch_size=64),
    )


def get_config(size: str = "full"):
    common.check_size(size, ("full", "guided", "tiny"))
    tiny = size == "tiny"
    rounds = dict(start_steps=64, end_steps=1, last_train_steps=1600)
    train = dict(num_steps=350, batch_size=64)
    stages = dict(
        teacher=digits.teacher(tiny),
        progressive=dict(
            method=dict(name="progressive", weight="snr_trunc"),
            optim=dict(lr=5e-4, schedule="linear", clip_norm=1.0),
            sampler=dict(name="ddim"),
            rounds=common.tiny_rounds() if tiny else rounds,
            train=dict(num_steps=4, batch_size=8) if tiny else train,
        ),
        evaluate=dict(
            kind="evaluate", models=("teacher", "teacher@4", "teacher@1", "progressive")
        ),
    )
    order, name = ("teacher", "progressive", "evaluate"), "digits_progressive"
    if size == "guided":
        order, name = ("teacher", "matching", *order[1:]), f"{name}_guided"
        stages["teacher"]["method"]["null_prob"] = 0.1
        stages["matching"] = matching()
        stages["progressive"]["init"] = dict(teacher="matching")
        stages["evaluate"]["models"] = ("teacher", "matching", "progressive")
    return common.config(name, order=order, stages=stages, **digits.sections(tiny))
