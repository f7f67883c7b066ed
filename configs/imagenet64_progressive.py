"""Progressive Distillation on class-conditional ImageNet 64x64, 1024 -> 1 steps.

    python -m kdiff_jax.main --config=configs/imagenet64_progressive.py --workdir=runs/i

Settings [code], but for the teacher's length [memory]. Hardware: 64 TPU v4 chips
[memory]. Expected: FID with 1 step 16.05, 2 steps 7.40, 4 steps 3.89, 8 steps 2.95
[digitised, Figure 4].

Images in one folder per class: --config.data.path=FOLDER, or as EDM prepares them:
--config.data.name=edm_zip --config.data.path=imagenet-64x64.zip
"""

from configs import common, progressive_paper


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    network = dict(
        channels=192,
        emb_channels=768,
        channel_mult=(1, 2, 3, 4),
        num_blocks=3,
        attn_resolutions=(8, 16, 32),
        head_dim=64,
        dropout=0.1,
    )
    sections = progressive_paper.sections(
        tiny,
        network=network,
        output="both",
        shape=(64, 64, 3),
        start_steps=1024,
        # The set of tensorflow-datasets has no labels.
        data=dict(name="folder", path="", size=64, flip=True),
        num_classes=10 if tiny else 1000,
    )
    stages = progressive_paper.stages(
        tiny,
        base={},
        base_lr=3e-4,
        base_steps=550_000,  # [memory]
        batch_size=2048,
        num_microbatches=4,
        lr=1e-4,
        start_steps=1024,
    )
    order = ("teacher", "progressive", "evaluate")
    return common.config(
        "imagenet64_progressive", order=order, stages=stages, **sections
    )
