"""One-step student of EDM's AFHQv2 64x64 model, by Denoising Student.

    python -m kdiff_jax.main --config=configs/afhq64_edm.py --workdir=runs/afhq64_edm

The teacher is the public edm-afhqv2-64x64-uncond-vp.pkl at teachers/, read as it is.
Hardware: 8 GPUs or a TPU v4-32 [inferred]. Teacher: FID 1.96 with 79 evaluations
[code]; no figure of this student is published.

Images as EDM prepares them: --config.data.path=afhqv2-64x64.zip
"""

from configs import edm_student


def get_config(size: str = "full"):
    return edm_student.get(
        "afhq64_edm",
        size,
        teacher="edm-afhqv2-64x64-uncond-vp.pkl",
        network=dict(name="song_unet", channel_mult=(1, 2, 2, 2), dropout=0.25),
        shape=(64, 64, 3),
        num_classes=0,
        data=dict(name="edm_zip", path="", size=64, use_labels=False),
        num_steps=40,
    )
