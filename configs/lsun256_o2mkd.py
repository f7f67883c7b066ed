r"""Four students of Google's LSUN 256x256 DDPM, each a quarter of the times: O2MKD.

    python -m kdiff_jax.main --config=configs/lsun256_o2mkd.py:church \
        --workdir=runs/church256_o2mkd

`:church` (the default, the paper's) or `:bedroom`; `:church_common` and
`:bedroom_common` begin with one student of all times, whose copies then share them.
Zhang & Ma 2024, arXiv:2410.04191; see configs/o2mkd.py for what is inferred. Students
of 64 channels, 28.4 M parameters and 62.3 GMAC a step for the teacher's 113.7 M and
248.5 G [computed]. The teacher is google/ddpm-ema-church-256 at teachers/, read as it
is. Hardware: 8 GPUs or a TPU v4-16 [inferred]. The paper's figures are unknown.
"""

from configs import common, lsun256_student, o2mkd, teachers


def get_config(size: str = "church"):
    sets = lsun256_student.SETS
    common.check_size(size, (*sets, *(f"{name}_common" for name in sets), "tiny"))
    kind, tiny = size.removesuffix("_common"), size == "tiny"
    return o2mkd.ddpm(
        f"lsun256_o2mkd_{size}",
        size,
        network=dict(channel_mult=(1, 1, 2, 2, 4, 4)),
        shape=(256, 256, 3),
        sampler=dict(num_steps=100),
        # As DDPM, all sets but LSUN's bedrooms are flipped [memory].
        data=dict(
            name=sets.get(kind, ""),
            path="",
            size=256,
            use_labels=False,
            flip=kind != "bedroom",
        ),
        begin={} if tiny else teachers.bring(f"ddpm-ema-{kind}-256"),
        teacher_lr=2e-5,
        lr=1e-4,
        batch_size=64,
        num_microbatches=4,
        common_steps=0 if kind == size else 200_000,
    )
