"""One-step student of EDM's ImageNet 64x64 model, by Denoising Student.

    python -m kdiff_jax.main --config=configs/imagenet64_edm.py --workdir=runs/i64_edm

The teacher is the public edm-imagenet-64x64-cond-adm.pkl at teachers/, read as it is.
Hardware: a TPU v4-64 or 32 GPUs [inferred]. Teacher: FID 2.44 with 79 evaluations
[memory]; no figure of this student is published.

Images as EDM prepares them: --config.data.path=imagenet-64x64.zip
"""

from configs import edm_student


def get_config(size: str = "full"):
    return edm_student.get(
        "imagenet64_edm",
        size,
        teacher="edm-imagenet-64x64-cond-adm.pkl",
        network=dict(name="adm_unet", dropout=0.1),
        shape=(64, 64, 3),
        num_classes=10 if size == "tiny" else 1000,
        data=dict(name="edm_zip", path="", size=64),
        num_steps=40,
        augment_dim=0,
    )
