"""The sections of a config's stages: keywords, types and defaults of each kind."""

from typing import Literal, NamedTuple

from kdiff_jax.arguments import Count, Seed, Whole
from kdiff_jax.build.sections import Precision, Section


class TrainStage(NamedTuple):
    """A stage that trains a network; beside these, see `Train`.

    Attributes:
        method: Its name, and the keywords of `methods.NAME.make`.
        optim: The keywords of `optim.make`.
        train: See `Train`.
        kind: "train".
        roles: Role -> keywords of `optim.make` that differ for it.
        model: What the student's network has otherwise than the model.
        sampler: How the student is sampled; by default as its teacher, else as the
            model. Without a name it changes keywords of that default.
        pairs: Stage whose pairs are trained on, in place of the data.
        init: Role -> where its parameters come from, see `build.resolved.TrainStage`.
        rounds: The keywords of `stages.rounds`: one stage per halving of the steps.
        settings: Numbers that the method reads during training.
        partition: Whether there is a student for each part of the partition.
        filter_data: See `Partition`.
        precision: See `Config`.
        channels: Which channels a narrower student begins with, a rule of
            `networks.channels`.
        blocks: Which residual blocks a shallower student begins with, a rule of
            `networks.blocks`.
    """

    method: Section
    optim: Section
    train: Section
    kind: Literal["train"] = "train"
    roles: Section = {}
    model: Section = {}
    sampler: Section | None = None
    pairs: str = ""
    init: Section = {}
    rounds: Section | None = None
    settings: Section = {}
    partition: bool = False
    filter_data: bool | None = None
    precision: Precision | None = None
    channels: Literal["", "even", "first"] = ""
    blocks: Literal["", "bk_sdm"] = ""


class PairsStage(NamedTuple):
    """A stage that makes pairs of noise and the teacher's samples.

    Attributes:
        num_pairs: Pairs to train on.
        num_held_out: Pairs to score with.
        shard_size: Pairs of one shard on disk.
        batch_size: Pairs made at once, over all devices.
        kind: "pairs".
        sampler: How the teacher is sampled; by default as its own stage says, else as
            the model. Without a name it changes keywords of that default.
        init: See `TrainStage`.
        precision: See `Config`.
    """

    num_pairs: Count
    num_held_out: Whole
    shard_size: Count
    batch_size: Count
    kind: Literal["pairs"] = "pairs"
    sampler: Section | None = None
    init: Section = {}
    precision: Precision | None = None


class EvaluateStage(NamedTuple):
    """The stage that measures `models`.

    `precision` is that of the models, see `Config`; the other keywords are those of
    `Evaluate`.
    """

    models: tuple[str, ...]
    kind: Literal["evaluate"] = "evaluate"
    init: Section = {}
    num_images: Count = 10_000
    features: str = "pixels"
    weights: str = ""
    fetch: bool = False
    batch_size: Count = 250
    seed: Seed = 1
    seeds: Count = 1
    headline: Literal["best", "mean"] = "best"
    labels: Literal["arange", "random"] = "arange"
    metrics: tuple[str, ...] = ("fd",)
    preprocessing: str = ""
    bootstrap: Whole = 0
    per: Literal["", "class", "student"] = ""
    clip: str = ""
    clip_tokenizer: str = ""
    prompts: str = ""
    protocol: str = ""
    reference: str = ""
    precision: Precision | None = None


class AutoencoderStage(NamedTuple):
    """A stage that trains an autoencoder on the images of `data`; see `TrainStage`.

    It leaves a folder vae/ as diffusers has it, whose latents have deviation 1: its
    scaling factor is 1. Of `train` all counts but those of figures; `result` is
    "params" or a moving average.

    Attributes:
        network: Name of the autoencoder, and its fields.
        method: See `TrainStage`.
        optim: See `TrainStage`.
        train: See `Train`.
        kind: "autoencoder".
        roles: See `TrainStage`.
        num_held_out: Number of images, chosen at random, that are not trained on.
        num_measured: Number of the other images that the scale of the latents is
            measured on.
        precision: See `Config`.
    """

    network: Section
    method: Section
    optim: Section
    train: Section
    kind: Literal["autoencoder"] = "autoencoder"
    roles: Section = {}
    num_held_out: Count = 500
    num_measured: Count = 10_000
    precision: Precision | None = None


class LatentsStage(NamedTuple):
    """A stage that encodes the images of `data`, once; `data.latents` names it.

    Attributes:
        kind: "latents".
        shard_size: Images of one shard on disk.
        batch_size: Images that a device encodes at once.
        precision: See `Config`.
    """

    kind: Literal["latents"]
    shard_size: Count = 1024
    batch_size: Count = 8
    precision: Precision | None = None
