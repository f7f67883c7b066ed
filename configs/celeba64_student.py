r"""Denoising Student on CelebA 64x64, from a DDPM teacher that you bring.

    python -m kdiff_jax.main --config=configs/celeba64_student.py \
        --workdir=runs/celeba --config.init.teacher=PATH

Settings [code]. Hardware: 8 GPUs [code]; a TPU v2-8 with
--config.stages.student.train.num_microbatches=8. Expected: FID 10.68 [memory], teacher
DDIM-100 6.53 [secondary]. Faces are cropped to 140 pixels and scaled to 64, as in DDIM
[memory].
"""

from configs import common, luhman

SAMPLER = dict(num_steps=100, spacing="quadratic")


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    sections = luhman.sections(
        tiny,
        network=dict(channel_mult=(1, 2, 2, 2, 4)),
        shape=(64, 64, 3),
        sampler=SAMPLER,
        data=dict(name="celeb_a", path="", use_labels=False),
    )
    stages = luhman.stages(
        tiny,
        sampler=SAMPLER,
        pairs=dict(
            num_pairs=1_024_000, num_held_out=10_240, shard_size=25_600, batch_size=1024
        ),
        loss="l2",
        optim=dict(lr=5e-5, b2=0.98, warmup_steps=5000, ema_decay=0.995),
        train=dict(num_steps=70_000, batch_size=512, validate_every=2000),
        models=("teacher", "student"),
    )
    order = ("pairs", "student", "evaluate")
    init = dict(teacher="")
    if tiny:
        train = dict(num_steps=4, batch_size=8)
        stages["teacher"] = luhman.teacher(tiny, lr=2e-4, train=train)
        order, init = ("teacher", *order), dict(teacher="teacher")
    return common.config(
        "celeba64_student",
        order=order,
        stages=stages,
        init=init,
        teacher_hint=HINT,
        **sections,
    )


HINT = (
    ", a DDPM of CelebA 64x64 with 78.7 M parameters (DDIM's celeba network) or one"
    " trained here, as a folder with model.safetensors and config.json"
)
