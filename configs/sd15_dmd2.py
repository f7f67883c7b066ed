"""One-step student of Stable Diffusion 1.5, by DMD2, in the authors' two stages.

    python -m kdiff_jax.cache --data=data/laion --output=data/laion_latents \
        --teacher=teachers/stable-diffusion-v1-5 --size=512
    python -m kdiff_jax.main --config=configs/sd15_dmd2.py --workdir=runs/sd15_dmd2

Distribution matching against the teacher guided by 1.75, then the discriminator on the
middle of the fake score, at a twentieth of the rate. Teacher, data and the tiny size
are those of sd15.py. The authors had 500,000 images of LAION-Aesthetics 6.25+ for the
discriminator and three million prompts beside them [code]; here the prompts are those
of the images. Hardware: 64 accelerators of 80 GB, or fewer with more microbatches; the
authors had 64 A100 for 25 and 2 hours, a batch of 2048, bfloat16, and recomputed
activations [code]. Expected: FID of 30,000 prompts of COCO-2014 9.28, then 8.35 [code].
It has not been run at full size here.
"""

from configs import common, sd15


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    init = dict(student="matching", fake_score="matching/fake_score")
    stages = dict(
        matching=sd15.dmd2(tiny, gan=False, lr=1e-5, num_steps=39_000),
        student=sd15.dmd2(tiny, gan=True, lr=5e-7, num_steps=2_000, init=init),
    )
    sampler = dict(name="ddim", num_steps=50, guidance=3.0)
    return sd15.get("sd15_dmd2", size, stages=stages, sampler=sampler)
