"""The sections of a config: the keywords, types, ranges and defaults of each.

Most are the keywords of one function, whose signature says all of that. The others are
declared here, in the same way.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from kdiff_jax import arguments
from kdiff_jax.arguments import Count, NotNegative, Positive, Seed, Share, Whole
from kdiff_jax.diffusion.guidance import Interval

Precision = Literal["float32", "bfloat16"]
Section = Mapping[str, Any]
GIVEN_BY_BUILD = (
    "out_channels",
    "num_classes",
    "cond_dim",
    "augment_dim",
    "reads_guidance",
)  # of a network


class Train(NamedTuple):
    """The section `train` of a stage, over that of the whole config; counts are steps.

    Attributes:
        num_steps: Length of the training.
        batch_size: Examples of a step, over all devices.
        result: What the stage leaves: "params", a moving average by its name, such as
            "ema", or "best", the best one of an average: of `figure_average` by a
            figure, of "ema" by the held-out loss.
        best_by: What "best" goes by: "held_out_loss", or a figure of `figure_metrics`,
            such as "fd" or "recall", whose metric says which way is better.
        log_every: Steps between two lines of the log.
        sample_every: Steps between two grids of images.
        save_every: Steps between two checkpoints.
        save_minutes: Minutes between two checkpoints; whichever comes first saves.
        validate_every: Steps between two scores on held-out pairs, for "best".
        figure_every: Steps between two quick figures, those of the section `evaluate`
            of fewer images; 0 for none.
        figure_images: Number of images of a quick figure.
        figure_metrics: What a quick figure measures, see `Evaluate.metrics`.
        figure_average: Moving average of the student that makes the images, or
            "params"; "" for that of `result`.
        num_microbatches: Parts of a batch whose gradients are accumulated.
        steps_per_dispatch: Steps of one program; 0 is 1 on the CPU, 10 on accelerators.
        layout: How parameters, optimizer state and averages lie on the devices of a
            student: "replicated", a copy on each, or "zero1", split among them.
        keep: Number of newest checkpoints that are kept; the newest that is known to be
            good, and the next that may be, are kept beside them.
        spike_factor: A loss or gradient norm this many times its usual size is a spike;
            0 is never.
        spike_lines: Number of consecutive lines of the log with a spike that count as
            divergence; the last line of the training counts alone.
        hang_minutes: Minutes without a sign of life after which the run ends; 0 is
            never.
        tracker: Where metrics and grids go beside TensorBoard: "wandb" (Weights &
            Biases; WANDB_MODE is respected, and without a key it is offline),
            "trackio", or "".
    """

    num_steps: Count
    batch_size: Count
    result: str = "params"
    best_by: str = "held_out_loss"
    log_every: Count = 100
    sample_every: Count = 1000
    save_every: Count = 5000
    save_minutes: Positive = 10.0
    validate_every: Count = 1000
    figure_every: Whole = 0
    figure_images: Count = 1000
    figure_metrics: tuple[str, ...] = ("fd",)
    figure_average: str = ""
    num_microbatches: Count = 1
    steps_per_dispatch: Whole = 0
    layout: Literal["replicated", "zero1"] = "replicated"
    keep: Count = 2
    spike_factor: NotNegative = 100.0
    spike_lines: Count = 3
    hang_minutes: NotNegative = 60.0
    tracker: Literal["", "wandb", "trackio"] = ""


class Evaluate(NamedTuple):
    """The section `evaluate`, of the whole config or of a stage.

    Attributes:
        num_images: Images made by each model.
        features: Features that the distance compares; "" for speed and pictures alone.
        weights: File of the feature network; "" for a public one at its place.
        fetch: Whether a public file is downloaded to its place if it is not there.
        batch_size: Images made at once, over all devices.
        seed: Seed of the noise.
        seeds: Number of seeds that are measured: seed, seed + 1, ...
        headline: Figures of a row of several seeds: "best", those of the seed whose
            first figure is best, or "mean".
        labels: Labels of the images: "arange", image i gets i mod the number of
            classes, or "random", drawn for each image.
        metrics: What is measured, files of `metrics/`: "fd", "kd", "prdc", ...
        preprocessing: What is done to the images first, by name; "" for the first that
            the features know.
        bootstrap: Draws for an interval of each figure that they tell; 0 for none.
        per: "class" or "student" to measure each of them, too.
        clip: Folder or file of the CLIP that the metric "clip_score" reads.
        clip_tokenizer: Folder of its tokenizer; "" for that of `clip`.
        prompts: File of prompts that images are asked for, image i the i-th, see
            `data.captions.prompts`; "" for the conditions that the model knows.
        protocol: How a paper measures, a name of `train.coco_protocols`: made and real
            images are resized as there, and several steps go by its sampler. Number of
            images, features, preprocessing and metrics stay those of this section; the
            row says what differs.
        reference: Statistics (.npz) or a data set that images are compared with; "" for
            the data of the recipe. A protocol needs one: a folder of real images, or
            statistics that were made by it.
    """

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


class Data(NamedTuple):
    """The section `data`; a source may take more.

    Attributes:
        name: Name of the source, see `data.images.load`.
        path: Path of the source's file or folder.
        split: Split of the data set, as the set itself names it.
        size: Side in pixels that images are resized to; 0 keeps them as they are.
        use_labels: Whether labels are used.
        conditions: .npy of f32[model.num_classes, model.cond_dim], whose row k is what
            images of label k are conditioned on; "" for the labels themselves. Of texts
            f32[model.num_classes + 1, model.cond_length, model.cond_dim], the last of
            which is the text that stands for none. With `model.text` a .txt of prompts,
            one a line, or "" for the captions of `latents`.
        class_names: Name of each class of the data, for prompts of `templates`.
        templates: Texts with one {} for the name of the class, such as "a photo of a
            {}", with `model.text`: each image has one of them by its number, and the
            model knows all, class by class: `model.num_classes` is the number of
            classes times that of templates.
        autoencoder: Folder or file of the autoencoder that `model.autoencoder`
            describes, see `latent.load`, or the stage that trains it; "" without.
        text_encoder: Pipeline folder of the tokenizer and the encoder that `model.text`
            describes, see `kdiff_jax.text`, or a model of ours that has them, or the
            stage that trains the encoder with its denoiser; "" without.
        latents: Cache of the latents that the images have, made by
            `python -m kdiff_jax.cache`, or the stage that makes it, to train on; ""
            encodes images as they are read.
        channels: 1 or 3, that images are converted to; 0 keeps them.
        background: Colour below transparent pixels.
        flip: Whether images are flipped, with probability 1/2. Of `latents` one with
            the latents of flipped images, made with --flip.
        augment_prob: Probability of each transform of EDM's augmentation; 0 turns it
            off.
    """

    name: str
    path: str = ""
    split: str = "train"
    size: Whole = 0
    use_labels: bool = True
    conditions: str = ""
    autoencoder: str = ""
    latents: str = ""
    text_encoder: str = ""
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    channels: Literal[0, 1, 3] = 0
    background: str = "white"
    flip: bool = False
    augment_prob: Share = 0.0


class Partition(NamedTuple):
    """The section `partition`, of recipes with several students.

    A training stage belongs to it with `partition=True`. There, `filter_data` says
    whether the students see examples of their own classes alone; by default all but
    pairs beside a loss on labels.

    Attributes:
        num_groups: Number of groups of classes.
        rule: How the classes are split, see `partition.make`.
        table: The group of each class, for the rule "table".
        seed: Seed of the rules "random" and "kmeans".
        embeddings: .npy of [classes, D], for "kmeans" and "pca"; "": the vectors of
            `data.conditions`, or without them the teacher's rows of the classes.
        num_ranges: Number of ranges of the time.
        spacing: Spacing of the borders of the ranges.
        only: The one student to train, beside other jobs; None for all.
    """

    num_groups: Count = 1
    rule: str = "consecutive"
    table: tuple[Whole, ...] = ()
    seed: Seed = 0
    embeddings: str = ""
    num_ranges: Count = 1
    spacing: str = "even"
    only: Whole | None = None


class Model(NamedTuple):
    """The section `model`; also what a stage changes of it.

    Attributes:
        network: Name of the network, and its fields.
        precondition: Name of the preconditioning, and its keywords.
        process: Name of the forward process, and its keywords.
        image_shape: (H, W, C) of what the network denoises.
        sampler: Name of the sampler, and its keywords.
        num_classes: Number of classes; 0 if unconditional. With `cond_dim` the number
            of vectors.
        cond_dim: Length of the vectors of `data.conditions`; 0 for labels.
        cond_length: Number of vectors of a text, if the rows of `data.conditions` are
            texts; 0 for single vectors.
        augment_dim: Length of EDM's augmentation label; 0 for none.
        space: Where the network's images live, a name of `domain.SPACES`.
        autoencoder: What stands between "latents" and pixels: its name, and its fields.
        text: Encoder of token ids, where conditions are kept as such: its name, and its
            fields.
        guidance_range: (low, high) of the strengths of guidance that a student reads,
            of methods that train such: one call gives what the guided teacher gives.
            None for none.
    """

    network: Section
    precondition: Section
    process: Section
    image_shape: tuple[Count, Count, Count]
    sampler: Section
    num_classes: Whole = 0
    cond_dim: Whole = 0
    cond_length: Whole = 0
    augment_dim: Whole = 0
    space: str = "pixels"
    autoencoder: Section | None = None
    text: Section | None = None
    guidance_range: Interval | None = None


class Config(NamedTuple):
    """The whole config.

    Attributes:
        name: Name of the recipe.
        order: The stages to run, in order.
        stages: Name -> section.
        data: See `Data`.
        model: See `Model`.
        train: Settings of `Train` that all stages share.
        evaluate: Settings of `Evaluate` that all stages share.
        init: Role -> where parameters come from, in all stages.
        seed: Seed of all random numbers.
        cpu_devices: A CPU taken for so many devices, see `start.split_cpu`.
        precision: Type that every network computes in: students, teachers, fake
            scores, discriminators and what they read, LPIPS. None is
            `model.network.dtype`, the older name, which is float32. A stage may say
            another. Parameters, norms, losses, optimizers and averages are float32, as
            is the network of `evaluate.features`.
        partition: See `Partition`.
        teacher_hint: Message shown if the teacher is missing.
        hints: Key of `data` -> message shown by --dryrun if what it names is missing.
    """

    name: str
    order: tuple[str, ...]
    stages: Section
    data: Section
    model: Section
    train: Section = {}
    evaluate: Section = {}
    init: Section = {}
    seed: Seed = 0
    cpu_devices: Annotated[int, arguments.Range(1)] = 1
    precision: Precision | None = None
    partition: Section | None = None
    teacher_hint: str = ""
    hints: Section = {}
