"""Four one-step students of EDM's ImageNet 64x64 model, 250 classes each: MSD.

    python -m kdiff_jax.main --config=configs/imagenet64_msd.py --workdir=runs/i64_msd

Song et al. 2024, arXiv:2410.23274: first distribution matching (FID 2.37 [secondary]),
then on with a discriminator (FID 1.20 [paper]). The teacher is the public
edm-imagenet-64x64-cond-adm.pkl at teachers/, read as it is; beside it lie LPIPS' two
files, vgg16-397923af.pth of torchvision and vgg.pth of LPIPS. Hardware: 8 GPUs or a TPU
v4-32 [inferred]; a student costs what DMD2's does, per image. With as many groups of
devices as students each group trains its own; `only` trains one a job:

    for k in 0 1 2 3: --config.partition.only=$k, after --stage=pairs

and the command above joins and evaluates them. Images as EDM prepares them:
--config.data.path=imagenet-64x64.zip
"""

from configs import msd


def get_config(size: str = "full"):
    return msd.imagenet64("imagenet64_msd", size)
