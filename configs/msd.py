"""What the recipes of Song et al. (2024, arXiv:2410.23274) on EDM's ImageNet share.

K students of 1000 / K classes each, consecutive ones [secondary]. The paper's appendix
could not be had: lengths, rates and batches are this project's reading [inferred], of
25.0 million images seen by each student, 28.8 with the discriminator's stage
[digitised, from a figure of others], and of DMD and DMD2, which the two stages follow.
"""

from configs import dmd

# Those of DMD on ImageNet, by 256 steps of Heun [paper].
PAIRS = dict(num_pairs=25_000, num_held_out=1024, shard_size=5000, batch_size=500)
TINY_PAIRS = dict(num_pairs=24, num_held_out=8, shard_size=16, batch_size=8)


def pairs(tiny: bool) -> dict:
    """Of the teacher's deterministic Heun sampler."""
    sampler = dict(name="heun", num_steps=3 if tiny else 256)
    return dict(kind="pairs", sampler=sampler, **(TINY_PAIRS if tiny else PAIRS))


def tsm(tiny: bool, network: dict) -> dict:
    """Teacher score matching: how students that are smaller than the teacher begin."""
    student = dmd.student(
        tiny,
        method=dict(name="tsm", times="edm", weight="edm"),
        lr=1e-4,
        train=dict(num_steps=300_000, batch_size=128, num_microbatches=4, result="ema"),
        partition=True,
    )
    student["model"]["network"] |= network
    student["optim"] |= dict(ema_half_life=500_000.0)
    # It still is a denoiser of all times, and is looked at as one.
    return student | dict(sampler=dict(name="heun", num_steps=3 if tiny else 40))


def matching(tiny: bool, **more) -> dict:
    """Distribution matching; all pairs for every student, labels of its own classes."""
    distance = dict(distance="l2") if tiny else dmd.LPIPS
    return dmd.student(
        tiny,
        method=dict(name="dmd", regression_weight=0.25, **distance),
        lr=2e-6,
        train=dict(num_steps=195_000, batch_size=128, num_microbatches=8),
        pairs="pairs",
        partition=True,
        **more,
    )


def adversarial(tiny: bool, **more) -> dict:
    """On from there with DMD2's discriminator, on images of the student's classes.

    30,000 steps are the 3.8 million images of the figure, counted there as DMD2's are:
    every step, though only each fifth is the student's. Counted in updates of the
    student, 150,000 would be as many. Rate and weights of the losses are those with
    which DMD2 resumes [code].
    """
    return dmd.student(
        tiny,
        method=dict(name="dmd2", student_every=2 if tiny else 5),
        lr=5e-7,
        train=dict(num_steps=30_000, batch_size=128, num_microbatches=8),
        init=dict(student="dm", fake_score="dm/fake_score"),
        partition=True,
        **more,
    )


def imagenet64(name: str, size: str, *, network: dict | None = None):
    """The recipe `name` of students with the teacher's network, or a smaller one."""

    def stages(tiny):
        found = dict(pairs=pairs(tiny))
        smaller = dict(channels=4, num_blocks=2) if tiny else network
        if network is None:
            return found | dict(dm=matching(tiny), adm=adversarial(tiny))
        found["tsm"] = tsm(tiny, smaller)
        model = dict(network=dict(dropout=0.0, **smaller))
        found["dm"] = matching(tiny, init=dict(student="tsm")) | dict(model=model)
        found["adm"] = adversarial(tiny) | dict(model=model)
        return found

    return dmd.get(
        name,
        size,
        teacher="edm-imagenet-64x64-cond-adm.pkl",
        network=dict(name="adm_unet", dropout=0.1),
        shape=(64, 64, 3),
        num_classes=1000,
        augment_dim=0,
        data=dict(name="edm_zip", path="", size=64),
        num_steps=40,
        stages=stages,
        models=("teacher", "dm", "adm"),
        partition=dict(num_groups=2 if size == "tiny" else 4),
    )
