r"""Progressive Distillation on LSUN 128x128, 1024 -> 1 steps.

    python -m kdiff_jax.main --config=configs/lsun128_progressive.py:church \
        --workdir=runs/church128

`:bedroom` (the default) or `:church`. Settings [code], but for the teacher's length
[memory]. Hardware: 64 TPU v4 chips [memory]. The paper shows FID against steps in a
figure only [paper].
"""

from configs import common, progressive_paper

SETS = {"bedroom": "lsun/bedroom", "church": "lsun/church_outdoor"}


def get_config(size: str = "bedroom"):
    common.check_size(size, (*SETS, "tiny"))
    tiny = size == "tiny"
    network = dict(
        channels=64,
        emb_channels=768,
        channel_mult=(1, 2, 4, 6, 8),
        num_blocks=3,
        attn_resolutions=(8, 16, 32),
        head_dim=64,
        dropout=0.1,
    )
    sections = progressive_paper.sections(
        tiny,
        network=network,
        output="both",
        shape=(128, 128, 3),
        start_steps=1024,
        data=dict(name=SETS.get(size, ""), path="", size=128, flip=True),
    )
    stages = progressive_paper.stages(
        tiny,
        base={},
        base_lr=3e-4,
        base_steps=400_000,  # [memory]
        batch_size=2048,
        num_microbatches=4,
        lr=1e-4,
        start_steps=1024,
    )
    order = ("teacher", "progressive", "evaluate")
    return common.config(
        f"lsun128_progressive_{size}", order=order, stages=stages, **sections
    )
