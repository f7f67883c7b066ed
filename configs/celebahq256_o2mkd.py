"""Four students of Google's CelebA-HQ 256x256 DDPM, each a quarter of the times: O2MKD.

    python -m kdiff_jax.main --config=configs/celebahq256_o2mkd.py --workdir=runs/celeb

Zhang & Ma 2024, arXiv:2410.04191; for all else see lsun256_o2mkd.py. The teacher is
google/ddpm-ema-celebahq-256 at teachers/, read as it is; the images a folder of
pictures: --config.data.path=celebahq. `:common` behind the name of the file begins with
one student of all times, whose copies then share them.
"""

from configs import common, o2mkd, teachers


def get_config(size: str = "full"):
    common.check_size(size, ("full", "common", "tiny"))
    return o2mkd.ddpm(
        "celebahq256_o2mkd_common" if size == "common" else "celebahq256_o2mkd",
        size,
        network=dict(channel_mult=(1, 1, 2, 2, 4, 4)),
        shape=(256, 256, 3),
        sampler=dict(num_steps=100),
        data=dict(name="folder", path="", size=256, use_labels=False, flip=True),
        begin=teachers.bring("ddpm-ema-celebahq-256"),
        teacher_lr=2e-5,
        lr=1e-4,
        batch_size=64,
        num_microbatches=4,
        common_steps=200_000 if size == "common" else 0,
    )
