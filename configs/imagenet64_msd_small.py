r"""Four one-step students of ImageNet 64x64 that are smaller than their teacher: MSD.

    python -m kdiff_jax.main --config=configs/imagenet64_msd_small.py \
        --workdir=runs/i64_msd_small

Song et al. 2024, arXiv:2410.23274: students of 172.8 M parameters, 42 % fewer than
the teacher, FID 2.88 [secondary]; `:smaller` behind the name of the file: 85.9 M, 71 %
fewer [computed from the shares]. They cannot begin with the teacher's weights, and
first learn its denoiser. For all else see imagenet64_msd.py.
"""

from configs import msd

NETWORKS = {
    "full": dict(channels=160, channel_mult=(1, 2, 2, 4), num_blocks=3),
    "smaller": dict(channels=128, channel_mult=(1, 2, 2, 4), num_blocks=2),
}


def get_config(size: str = "full"):
    smaller = size == "smaller"
    return msd.imagenet64(
        f"imagenet64_msd_{'smaller' if smaller else 'small'}",
        "full" if smaller else size,
        network=NETWORKS.get(size, NETWORKS["full"]),
    )
