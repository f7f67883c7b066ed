"""Four smaller denoisers of Stable Diffusion 1.5, each a quarter of the times: O2MKD.

    python -m kdiff_jax.cache --data=data/laion --output=data/laion_latents \
        --teacher=teachers/stable-diffusion-v1-5 --size=512
    python -m kdiff_jax.main --config=configs/sd15_o2mkd.py --workdir=runs/sd15_o2mkd

Zhang & Ma 2024, arXiv:2410.04191; of the paper only abstract and introduction could be
had. Students have fewer blocks than the teacher, as those of BK-SDM (Kim et al. 2023,
arXiv:2305.15798), and begin with the weights of the blocks that they keep: BK-SDM-Base,
579.4 M parameters of the teacher's 859.5 M; `:small` behind the name of the file, also
without the bottleneck, 482.3 M; `:smallest`, without the innermost level, BK-SDM-Tiny,
323.4 M [computed].

First `common`, one student of all times, which is BK-SDM itself: the errors of eps to
the data and to the teacher, and those of the features at the end of every level, all of
weight 1; AdamW at 5e-5, a batch of 256, 50,000 steps, averages [code]. Then four copies
of it, each with as many steps in its range [inferred]. A share of the captions is
dropped, so that students are guided like their teacher [inferred]. Teacher, data and
the tiny size are those of sd15.py; BK-SDM had 212,776 images of LAION-Aesthetics 6.5+
[memory].

Hardware: 8 accelerators of 80 GB [inferred]; BK-SDM had one, for some 13 days [memory].
Expected of `common`, 25 steps of PNDM, FID of 30,000 prompts of COCO-2014 15.76, 16.98
and 17.12, the teacher's, of Stable Diffusion 1.4, 13.05 [code]; the four must be better
than that [inferred], and the paper's figures are unknown. A trained folder takes any
sampler: sample --sampler=dpm_solver. It has not been run at full size here.
"""

from configs import common, o2mkd, sd15

# What of the network differs from the teacher's.
BASE = dict(num_blocks=1)
SMALL = BASE | dict(mid_depth=None)
NETWORKS = dict(
    full=BASE,
    small=SMALL,
    smallest=SMALL | dict(channel_mult=(1, 2, 4), depths=(1, 1, 1)),
    tiny=SMALL,
)


def student(size: str) -> dict:
    """The stage of the four, before they begin as copies of another."""
    tiny = size == "tiny"
    train = dict(num_steps=50_000, batch_size=256, num_microbatches=4, result="ema")
    short = dict(num_steps=4, batch_size=8, num_microbatches=1)
    return dict(
        method=dict(
            name="tsm",
            weight="snr",  # errors of eps
            task_weight=1.0,
            features="fitnet",
            feature_weight=1.0,
            null_prob=0.1,
        ),
        model=dict(network=NETWORKS[size]),
        init=dict(student="teacher"),
        blocks="bk_sdm",
        partition=True,
        optim=dict(lr=5e-5, weight_decay=0.01, clip_norm=1.0, ema_decay=0.9998),
        sampler=sd15.SHOWN | (dict(num_steps=2) if tiny else {}),
        train=train | (short if tiny else dict(layout="zero1")),
    )


def get_config(size: str = "full"):
    common.check_size(size, tuple(NETWORKS))
    tiny = size == "tiny"
    one = student(size)
    return sd15.get(
        "sd15_o2mkd" if size in ("full", "tiny") else f"sd15_o2mkd_{size}",
        size,
        stages=o2mkd.after_common(one, one["train"]["num_steps"]),
        num_prompts=212_776,
        network=dict(num_blocks=2, mid_depth=0),
        partition=dict(num_ranges=2 if tiny else 4),
    )
