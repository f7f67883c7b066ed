r"""Denoising Student of Stable Diffusion 1.5: one step, from pairs of guided samples.

    python -m kdiff_jax.cache --data=data/laion --output=data/laion_latents \
        --teacher=teachers/stable-diffusion-v1-5 --size=512
    python -m kdiff_jax.main --config=configs/sd15_student.py --workdir=runs/sd15_ds

Luhman & Luhman 2021, arXiv:2101.02388, who have no such run: every number here is
[inferred] from their 256x256 recipes. Pairs are latents of 50 steps of DDIM, guided by
3, of every prompt: the student answers for the guided teacher, and is itself not
guided. Its loss is the plain one on latents. Teacher, data and the tiny size are those
of sd15.py; of the data the prompts alone are trained on.

Hardware: 8 accelerators of 80 GB [inferred]; the pairs cost as much as the training,
and take 33 GB of disk [computed]. Expected: no figure is published. Regression on
latents alone is known to blur: InstaFlow, which straightens the paths first, is at
13.10 [secondary], the teacher at 8.59 [secondary], FID of 30,000 prompts of COCO-2014.
It has not been run at full size here.
"""

from configs import common, luhman, sd15


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    sampler = dict(num_steps=50, guidance=3.0)
    stages = luhman.stages(
        tiny,
        sampler=sampler,
        pairs=dict(
            num_pairs=500_000, num_held_out=5_120, shard_size=5_120, batch_size=512
        ),
        loss="l2",
        optim=dict(lr=5e-5, b2=0.98, warmup_steps=5000, ema_decay=0.999),
        train=dict(
            num_steps=50_000,
            batch_size=512,
            num_microbatches=4,
            validate_every=1000,
            layout="zero1",
        ),
        models=(),
    )
    del stages["evaluate"]
    if tiny:
        stages["pairs"]["sampler"]["num_steps"] = 2
    sampler = dict(name="ddim", **sampler)
    return sd15.get("sd15_student", size, stages=stages, sampler=sampler)
