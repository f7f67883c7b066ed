"""One-step student of DiT-XL/2 or SiT-XL/2 on ImageNet 256x256, by GDD-I.

    python -m kdiff_jax.main --config=configs/dit256_gdd.py --workdir=runs/dit256_gdd

`:sit` behind the name of the file takes SiT; for teachers, data and the tiny sizes see
dit256.py. Zheng & Yang 2024, arXiv:2405.20750, have no such run, and U-Nets alone: a
GAN on latents, whose discriminator reads the teacher's tokens after a quarter and half
of its blocks at two noise levels, and whose generator keeps its MLPs and the last
layers of its attention; rates, the batch and 6 million images are those of their
ImageNet 64x64 [inferred]. Hardware: 8 accelerators of 80 GB [inferred]. Expected: no
figure is published. It has not been run at full size here.
"""

from configs import common, dit256, gdd


def get_config(size: str = "full"):
    common.check_size(size, dit256.sizes())
    kind, tiny = dit256.kind_of(size), size.startswith("tiny")
    train = dict(num_steps=11_718, batch_size=512, num_microbatches=2, layout="zero1")
    student = dict(
        method=dict(
            name="gdd",
            noise_levels=(0.2, 1.0),
            width=4 if tiny else 64,
            virtual_local_batch=4 if tiny else 32,
            freeze=True,
        ),
        model=dit256.one_step(kind) | dict(network=dict(dropout=0.0)),
        optim=dict(lr=8e-6, b1=0.0, b2=0.99, ema_half_life=500_000.0),
        roles=gdd.roles(4e-5),
        sampler=dict(name="ddim", num_steps=1, guidance=1),
        train=dict(num_steps=4, batch_size=8) if tiny else train,
    )
    student["train"] |= dict(result="ema")
    name = "dit256_gdd_sit" if kind == "sit" else "dit256_gdd"
    stages, models = dict(student=student), ("teacher", "student")
    return dit256.get(name, kind, tiny=tiny, stages=stages, models=models)
