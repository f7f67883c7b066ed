r"""Four one-step students of Stable Diffusion 1.5, a quarter of the prompts each: MSD.

    python -m kdiff_jax.cache --data=data/laion --output=data/laion_latents \
        --teacher=teachers/stable-diffusion-v1-5 --size=512
    python -m kdiff_jax.main --config=configs/sd15_msd.py --workdir=runs/sd15_msd

Song et al. 2024, arXiv:2410.23274. Both stages are DMD2's, see sd15_dmd2.py, with a
batch of 512 for each student, so that four of them cost what one of 2048 does
[inferred]. A prompt is the mean of its text states over all tokens; the prompts are
split at the median of their first principal component, and each half at the median of
its second, into quadrants of equal size [secondary; the rule inferred]. The thresholds
stay in the model, and a new prompt goes to the student of its quadrant. Students match
scores of their own prompts, and the discriminator sees their own images. Teacher, data
and the tiny size are those of sd15.py; the authors had prompts of COYO [memory].

Hardware: 64 accelerators of 80 GB, in four groups of 16; or four jobs, one a student,

    for k in 0 1 2 3: --config.partition.only=$k

which the command above joins [inferred]. Expected: FID of 30,000 prompts of COCO-2014
8.80, then 8.20, where one student is at 9.28 and 8.35; 0.09 s an image [secondary]. It
has not been run at full size here.
"""

from configs import common, sd15


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    shared = dict(partition=True, batch_size=512, num_microbatches=4)
    init = dict(student="dm", fake_score="dm/fake_score")
    stages = dict(
        dm=sd15.dmd2(tiny, gan=False, lr=1e-5, num_steps=39_000, **shared),
        student=sd15.dmd2(
            tiny, gan=True, lr=5e-7, num_steps=2_000, init=init, **shared
        ),
    )
    return sd15.get(
        "sd15_msd",
        size,
        stages=stages,
        sampler=dict(name="ddim", num_steps=50, guidance=3.0),
        partition=dict(num_groups=2 if tiny else 4, rule="pca"),
    )
