"""What recipes for tests share that are about everything but the network.

Points in the plane and a network of dense layers: a U-Net takes ten times as long to
trace, again in every process that a test starts.
"""

import recipes
from ml_collections import ConfigDict


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


def with_rounds(**partition) -> ConfigDict:
    """The same, and then a round in which each student halves its own steps."""
    found, halved = config(**partition), recipes.load("digits_progressive", "tiny")
    rounds = halved.stages.progressive.unlock()
    rounds.rounds.end_steps = 2
    rounds.init = dict(teacher="student")
    rounds.partition = True
    found.stages.progressive = rounds
    found.order = ("teacher", "student", "progressive", "evaluate")
    found.evaluate.models = ("student", "progressive")
    return found
