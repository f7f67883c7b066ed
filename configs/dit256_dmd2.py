"""One-step student of DiT-XL/2 or SiT-XL/2 on ImageNet 256x256, by DMD2.

    python -m kdiff_jax.main --config=configs/dit256_dmd2.py --workdir=runs/dit256_dmd2

`:sit` behind the name of the file takes SiT; for teachers, data and the tiny sizes see
dit256.py. Yin et al. 2024, arXiv:2405.14867, have no such run: stages, rates and
weights of the losses are those of their ImageNet 64x64 (imagenet64_dmd2.py), the
teacher is guided by 1.5 [inferred]. The discriminator reads the tokens half-way through
the fake score. Hardware: 8 accelerators of 80 GB [inferred]. Expected: no figure is
published; FID of 50,000 images of the teachers, guided by 1.5, is 2.27 (DiT, 250 steps
of DDPM) and 2.06 (SiT, 250 steps of its SDE) [memory]. It has not been run at full size
here.
"""

from configs import common, dit256, dmd


def get_config(size: str = "full"):
    common.check_size(size, dit256.sizes())
    kind, tiny = dit256.kind_of(size), size.startswith("tiny")

    def stage(*, gan: bool, lr: float, num_steps: int, **more):
        method = dict(
            name="dmd2",
            guidance=1.5,
            fake_weight=dit256.KINDS[kind][3],
            student_every=2 if tiny else 5,
            gan_weight=3e-3 if gan else 0.0,
            disc_weight=1e-2,
            head_place="middle",
            head_groups=4 if tiny else 32,
        )
        train = dict(num_steps=num_steps, batch_size=288, layout="zero1")
        found = dmd.student(tiny, method=method, lr=lr, train=train, **more)
        found["model"] |= dit256.one_step(kind)
        return found | dict(sampler=dict(name="renoise", num_steps=1, guidance=1))

    init = dict(student="matching", fake_score="matching/fake_score")
    stages = dict(
        matching=stage(gan=False, lr=2e-6, num_steps=405_500),
        student=stage(gan=True, lr=5e-7, num_steps=140_000, init=init),
    )
    name = "dit256_dmd2_sit" if kind == "sit" else "dit256_dmd2"
    models = ("teacher", "matching", "student")
    return dit256.get(name, kind, tiny=tiny, stages=stages, models=models)
