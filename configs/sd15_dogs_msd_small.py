r"""Four one-step students of pictures of dogs, 83 % smaller than Stable Diffusion: MSD.

    python -m kdiff_jax.cache --data=data/dogs --output=data/dogs_latents \
        --teacher=teachers/stable-diffusion-v1-5 --size=512
    python -m kdiff_jax.main --config=configs/sd15_dogs_msd_small.py --workdir=runs/dogs

Song et al. 2024, arXiv:2410.23274: students with 83 % fewer parameters, for 1.2 million
prompts of dogs, from a teacher guided by 8 [secondary]. Their network is unknown; this
one has half the channels of the teacher and one residual block a level in place of two,
148.0 M parameters, 83 % fewer [computed]. Smaller students cannot begin with the
teacher's weights: they first learn its denoiser (`tsm`), then match its distribution.
Prompts are split as in sd15_msd.py; lengths, rates and batches are that recipe's, and
of `tsm` those of msd.py [inferred]. Teacher and the tiny size are those of sd15.py.

Hardware: 32 accelerators of 80 GB [inferred]. Expected: pictures alone are published,
and a latency 5 % below the teacher's network in one step, for decoding is most of it
[secondary]. It has not been run at full size here.
"""

from configs import common, sd15

SMALLER = dict(network=dict(channels=160, num_blocks=1, dropout=0.0))
SMALLER_TINY = dict(network=dict(channels=4, num_blocks=1, num_groups=2))


def tsm(tiny: bool) -> dict:
    """Teacher score matching, of eps."""
    train = dict(num_steps=300_000, batch_size=512, num_microbatches=4, result="ema")
    short = dict(num_steps=4, batch_size=8)
    return dict(
        method=dict(name="tsm", weight="snr", null_prob=0.1),
        optim=dict(lr=1e-4, warmup_steps=500, clip_norm=10.0, ema_decay=0.9999),
        train=train | (short | dict(num_microbatches=1) if tiny else {}),
        partition=True,
        # It still is a denoiser of all times, and is looked at as one.
        sampler=sd15.SHOWN | (dict(num_steps=2) if tiny else {}),
    )


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    model = SMALLER_TINY if tiny else SMALLER
    matching = sd15.dmd2(
        tiny,
        gan=False,
        lr=1e-5,
        num_steps=39_000,
        batch_size=512,
        guidance=8.0,
        init=dict(student="tsm"),
        partition=True,
    )
    return sd15.get(
        "sd15_dogs_msd_small",
        size,
        stages=dict(
            tsm=tsm(tiny) | dict(model=model), student=matching | dict(model=model)
        ),
        data="dogs",
        num_prompts=1_200_000,
        sampler=dict(name="ddim", num_steps=50, guidance=8.0),
        partition=dict(num_groups=2 if tiny else 4, rule="pca"),
    )
