"""One-step student of EDM's class-conditional CIFAR-10 model, by Denoising Student.

    python -m kdiff_jax.main --config=configs/cifar10_edm.py --workdir=runs/cifar10_edm

The teacher is the public edm-cifar10-32x32-cond-vp.pkl at teachers/, read as it is.
Hardware: 8 GPUs [inferred]; a TPU v2-8 with
--config.stages.student.train.num_microbatches=4. Teacher: FID 1.79 with 35 evaluations
[code]; no figure of this student is published.
"""

from configs import edm_student


def get_config(size: str = "full"):
    return edm_student.get(
        "cifar10_edm",
        size,
        teacher="edm-cifar10-32x32-cond-vp.pkl",
        network=dict(name="song_unet", dropout=0.13),
        shape=(32, 32, 3),
        num_classes=10,
        data=dict(name="cifar10", path=""),
        num_steps=18,
    )
