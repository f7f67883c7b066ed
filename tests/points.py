"""What recipes for tests share that are about everything but the network.

Points in the plane and a network of dense layers: a U-Net takes ten times as long to
trace, again in every process that a test starts.
"""

import recipes
from ml_collections import ConfigDict

from kdiff_jax.networks import mlp

# Four steps with it move a student by a few hundredths, a thousand times what two runs
# may differ by. Adam divides a gradient by its size: of one near zero it would make a
# whole step, whose sign is that of a rounding error. With an eps of about the size of
# the gradients here, a step errs by at most three times what its gradient does.
OPTIM = dict(
    lr=3e-2,
    eps=1e-2,
    warmup_steps=0,
    schedule="constant",
    ema_decay=0.5,
    ema_half_life=None,
)


def sections() -> dict:
    """data, model and evaluate, with a process that every method knows."""
    return dict(
        data=dict(name="mixture", num_images=256),
        model=dict(
            network=dict(name="mlp", channels=8, num_blocks=2),
            precondition=dict(name="v"),
            process=dict(name="cosine"),
            image_shape=(1, 1, 2),
            num_classes=8,
            sampler=dict(name="ddim", num_steps=4),
        ),
        evaluate=dict(num_images=20),
    )


def config(**partition) -> ConfigDict:
    """A recipe of two small students that share the times, after their teacher."""
    stages = recipes.load("digits_o2mkd", "tiny").to_dict()["stages"]
    stages["student"]["method"]["features"] = "none"
    stages["student"]["optim"] |= OPTIM
    from configs import common

    found = sections()
    found["evaluate"] |= dict(features="")
    return common.config(
        "several",
        order=("teacher", "student", "evaluate"),
        stages=stages,
        partition=dict(num_ranges=2) | partition,
        train=common.tiny_train(),
        **found,
    ).unlock()


class Features2x2(mlp.Mlp):
    """The network, with features of the size that DMD2's discriminator needs."""

    def trunk(self, *inputs):
        out, down, up = super().trunk(*inputs)
        return out, [h.reshape(len(h), 2, 2, -1) for h in down], up


def with_discriminators(**partition) -> ConfigDict:
    """Students of two groups of classes by DMD, which then each get a discriminator.

    For networks with `Features2x2`.
    """
    stages = recipes.load("digits_msd", "tiny").to_dict()["stages"]
    for name in ("dm", "adm"):
        stages[name]["optim"] |= OPTIM
        stages[name]["roles"] = {}
        stages[name]["train"]["num_steps"] = 4
    # It has a carry. One program of all phases takes half the time of two to compile.
    method = dict(f_divergence="jensen_shannon", student_every=1, head_groups=1)
    stages["adm"]["method"] |= method
    found = sections()
    # Of eight, the discriminator's norms would see two, which they make +1 and -1.
    found["model"]["network"]["channels"] = 32
    from configs import common

    return common.config(
        "several_stages",
        order=("teacher", "pairs", "dm", "adm"),
        stages=stages,
        partition=dict(num_groups=2) | partition,
        train=dict(log_every=2, save_every=2),
        **found,
    )


def with_rounds(**partition) -> ConfigDict:
    """The same, and then a round in which each student halves its own steps."""
    found, halved = config(**partition), recipes.load("digits_progressive", "tiny")
    rounds = halved.stages.progressive.unlock()
    rounds.rounds.end_steps = 2
    rounds.init = dict(teacher="student")
    rounds.partition = True
    found.stages.progressive = rounds
    found.order = ("teacher", "student", "progressive", "evaluate")
    found.stages.evaluate.models = ("student", "progressive")
    return found
