"""One-step student of EDM's ImageNet 64x64 model, by DMD2, in the authors' two stages.

    python -m kdiff_jax.main --config=configs/imagenet64_dmd2.py --workdir=runs/i64_dmd2

First distribution matching alone; then, resumed with the discriminator at a quarter of
the rate: student and fake score begin with the weights of the first stage, optimizers
anew. The teacher is the public edm-imagenet-64x64-cond-adm.pkl at teachers/, read as it
is. Hardware: 8 GPUs or a TPU v4-32 [inferred]. The authors had 7 A100 for 70 and 38
hours, a batch of 280, and networks in bfloat16 [code]; 288 is the nearest that splits
over 16 and 32 devices as well. Expected: FID 2.61, then 1.28 [paper]; with the
discriminator from the first step 1.51 after 200,000 steps [paper].

Students of four steps, with the times that DMD2 has for SDXL (every fourth of the fine
grid): configs/imagenet64_dmd2.py:four_steps; the authors have no such run. They are
trained on their own path, and sampled along it, by the sampler `renoise`.

Images as EDM prepares them: --config.data.path=imagenet-64x64.zip
"""

from configs import common, dmd

SIZES = ("full", "tiny", "four_steps", "tiny_four_steps")


def get_config(size: str = "full"):
    common.check_size(size, SIZES)
    num_steps = 4 if size.endswith("four_steps") else 1

    def stages(tiny):
        method = dict(name="dmd2", student_every=2 if tiny else 5, num_steps=num_steps)
        sampler = dict(sampler=dict(name="renoise", num_steps=num_steps))
        matching = dmd.student(
            tiny,
            method=method | dict(gan_weight=0.0),
            lr=2e-6,
            train=dict(num_steps=405_500, batch_size=288, num_microbatches=3),
        )
        resumed = dmd.student(
            tiny,
            method=method | dict(gan_weight=3e-3, disc_weight=1e-2),
            lr=5e-7,
            train=dict(num_steps=140_000, batch_size=288, num_microbatches=3),
            init=dict(student="matching", fake_score="matching/fake_score"),
        )
        return dict(matching=matching | sampler, student=resumed | sampler)

    return dmd.get(
        "imagenet64_dmd2",
        "tiny" if size.startswith("tiny") else "full",
        teacher="edm-imagenet-64x64-cond-adm.pkl",
        network=dict(name="adm_unet", dropout=0.1),
        shape=(64, 64, 3),
        num_classes=1000,
        augment_dim=0,
        data=dict(name="edm_zip", path="", size=64),
        num_steps=40,
        stages=stages,
        models=("teacher", "matching", "student"),
    )
