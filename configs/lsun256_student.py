r"""Denoising Student on LSUN 256x256, from Google's DDPM.

    python -m kdiff_jax.main --config=configs/lsun256_student.py:church \
        --workdir=runs/church256

`:bedroom` (the default) or `:church`. The teacher is google/ddpm-ema-bedroom-256 or
google/ddpm-ema-church-256 at teachers/, 113.67 M parameters, read as it is. Settings
[code]. Hardware: a TPU v4-32 or 8 GPUs [inferred]; the pairs take 600 GB
(--config.stages.pairs.num_pairs=204800 is the authors' smaller set). No figure is
published; the paper shows samples [code].
"""

from configs import common, luhman, teachers

SETS = {"bedroom": "lsun/bedroom", "church": "lsun/church_outdoor"}
ITERATIONS = {"bedroom": 1_600_000, "church": 1_280_000}
SAMPLER = dict(num_steps=50, spacing="linear")


def get_config(size: str = "bedroom"):
    common.check_size(size, (*SETS, "tiny"))
    tiny = size == "tiny"
    sections = luhman.sections(
        tiny,
        network=dict(channel_mult=(1, 1, 2, 2, 4, 4)),
        shape=(256, 256, 3),
        sampler=SAMPLER,
        data=dict(name=SETS.get(size, ""), path="", size=256, use_labels=False),
    )
    stages = luhman.stages(
        tiny,
        sampler=SAMPLER,
        pairs=dict(
            num_pairs=1_024_000, num_held_out=2560, shard_size=2560, batch_size=64
        ),
        loss="l2",
        optim=dict(lr=5e-6, b1=0.98, b2=0.999, warmup_steps=1000, ema_decay=0.9995),
        train=dict(
            num_steps=ITERATIONS.get(size, 4), batch_size=32, validate_every=6400
        ),
        models=("teacher", "student"),
    )
    order = ("pairs", "student", "evaluate")
    begin = {}
    if tiny:
        train = dict(num_steps=4, batch_size=8)
        stages["teacher"] = luhman.teacher(tiny, lr=2e-5, train=train)
        order = ("teacher", *order)
    else:
        begin = teachers.bring(f"ddpm-ema-{size}-256")
    return common.config(
        f"lsun256_student_{size}",
        order=order,
        stages=stages,
        **begin,
        **sections,
    )
