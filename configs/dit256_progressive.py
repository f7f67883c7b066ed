"""Progressive Distillation of SiT-XL/2 on ImageNet 256x256, 64 -> 1 guided steps.

    python -m kdiff_jax.main --config=configs/dit256_progressive.py --workdir=runs/pd

For teacher, data and the tiny size see dit256.py. Salimans & Ho 2022, arXiv:2202.00512:
the halvings need a time in [0, 1], SiT's, and a prediction that says something of x0 in
pure noise, a velocity; DiT's eps over 1000 steps has neither. The first round has the
teacher guided by 1.5, and those after it need no guidance (Meng et al. 2023,
arXiv:2210.03142, for one strength). Rates, the batch and the lengths of the rounds are
those of imagenet64_progressive.py [inferred]. Hardware: 8 accelerators of 80 GB
[inferred]. Expected: no figure is published. It has not been run at full size here.
"""

from configs import common, dit256, progressive_paper


def get_config(size: str = "full"):
    common.check_size(size)
    tiny = size == "tiny"
    train = dict(num_steps=50_000, batch_size=512, num_microbatches=4, layout="zero1")
    rounds = dict(start_steps=64, end_steps=1, last_train_steps=100_000)
    progressive = dict(
        method=dict(name="progressive", weight="snr_trunc", guidance=1.5),
        optim=dict(lr=1e-4, schedule="linear", clip_norm=1.0),
        sampler=dict(name="ddim", guidance=1),
        rounds=common.tiny_rounds() if tiny else rounds,
        train=dict(num_steps=4, batch_size=8) if tiny else train,
    )
    shown = ("progressive",) if tiny else progressive_paper.SHOWN[1:]
    return dit256.get(
        "dit256_progressive",
        "sit",
        tiny=tiny,
        stages=dict(progressive=progressive),
        models=("teacher", *shown),
    )
