"""A recipe, resolved once: frozen, hashable values with all defaults in them.

Below `build` nobody reads a config by its keys. What is open, because its keywords are
those of a function that has a name, is a `Named`; the model is a `Spec`.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from flax.core import FrozenDict

from kdiff_jax.build.sections import Evaluate, Partition, Train
from kdiff_jax.domain import Conditions, Space
from kdiff_jax.interop import Spec
from kdiff_jax.named import Keywords, Named, frozen


@dataclasses.dataclass(frozen=True)
class Init:
    """Where the parameters of a stage's roles come from.

    Each source is the name of a stage, a path, "stage/role": that role of the stage's
    last checkpoint, weights alone, or "random".

    Attributes:
        teacher: Source of the teacher; None without one, "" for a path that is to be
            given.
        student: Source of the student; None leaves it to the method.
        others: Role -> source, of all other roles.
    """

    teacher: str | None = None
    student: str | None = None
    others: Mapping[str, str] = FrozenDict()

    @classmethod
    def of(cls, sources: Mapping[str, str]) -> "Init":
        """That of a section of the config."""
        others = dict(sources)
        known = (others.pop("teacher", None), others.pop("student", None))
        return cls(*known, frozen(others))

    @property
    def sources(self) -> dict[str, str]:
        """Role -> source, of all roles that have one."""
        known = {"teacher": self.teacher, "student": self.student}
        return {k: v for k, v in known.items() if v is not None} | dict(self.others)

    @property
    def stages(self) -> set[str]:
        """The names of sources without their roles."""
        return {str(one).partition("/")[0] for one in self.sources.values()}


@dataclasses.dataclass(frozen=True)
class TrainStage:
    """A stage that trains a network.

    Attributes:
        name: Name of the stage and of its folder.
        init: Where the parameters of its roles come from.
        section: Its section of the config as plain values, for the record alone.
        method: Method that trains it.
        optim: Keywords of `optim.make`.
        roles: Role -> keywords of `optim.make` that differ for it.
        train: Lengths, batch and intervals.
        model: What the student's network has otherwise than its teacher's.
        sampler: What its sampler has otherwise than its teacher's.
        pairs: Stage whose pairs are trained on, in place of the data; "" for none.
        settings: Numbers that the method reads during training.
        partition: Whether there is a student for each part of the partition.
        filter_data: Whether students see examples of their own classes alone; None
            leaves it to the method.
        precision: Type that every network of the stage computes in.
        channels: Which channels a narrower student begins with; "" for no narrower one.
        blocks: Which blocks a shallower student begins with; "" for no shallower one.
        trains_text: Whether it trains the text encoder, too, which `data.text_encoder`
            names it for.
        own_train: Options of `train` that its own section sets, not that of the config.
    """

    kind: ClassVar[Literal["train"]] = "train"
    name: str
    init: Init
    section: Mapping[str, Any] = dataclasses.field(compare=False, repr=False)
    method: Named
    optim: Keywords
    roles: Keywords
    train: Train
    model: Keywords
    sampler: Keywords
    pairs: str
    settings: Mapping[str, int]
    partition: bool
    filter_data: bool | None
    precision: str
    channels: str
    blocks: str = ""
    trains_text: bool = False
    own_train: tuple[str, ...] = ()

    @property
    def round_steps(self) -> int | None:
        """Sampling steps that the student of a round is trained for; None without."""
        return self.settings.get("num_steps")

    @property
    def guidance(self) -> float | None:
        """Guidance that the method asks its teacher for; None where it knows none."""
        return self.method.keywords.get("guidance")

    @property
    def guidance_interval(self) -> tuple[float, float] | None:
        """Noise levels that the teacher is guided at; None for all."""
        return self.method.keywords.get("guidance_interval")

    @property
    def spacing(self) -> str | None:
        """Spacing of the times that the method draws; None for that of the process."""
        return self.method.keywords.get("spacing")

    @property
    def hang_minutes(self) -> float:
        """Minutes without a sign of life after which the run ends; 0 is never."""
        return self.train.hang_minutes


@dataclasses.dataclass(frozen=True)
class AutoencoderStage:
    """A stage that trains an autoencoder on the images of the recipe.

    Attributes:
        name: See `TrainStage`.
        section: See `TrainStage`.
        network: The autoencoder.
        method: Method that trains it.
        optim: See `TrainStage`.
        roles: See `TrainStage`.
        train: See `TrainStage`.
        num_held_out: Number of images that are not trained on.
        num_measured: Number of images that the scale of the latents is measured on.
        precision: Type that the networks compute in.
        own_train: See `TrainStage`.
    """

    # What other stages that train choose.
    kind: ClassVar[Literal["autoencoder"]] = "autoencoder"
    init: ClassVar[Init] = Init()
    sampler: ClassVar[Keywords] = FrozenDict()
    pairs: ClassVar[str] = ""
    filter_data: ClassVar[bool] = False
    trains_text: ClassVar[bool] = False
    name: str
    section: Mapping[str, Any] = dataclasses.field(compare=False, repr=False)
    network: Named
    method: Named
    optim: Keywords
    roles: Keywords
    train: Train
    num_held_out: int
    num_measured: int
    precision: str
    own_train: tuple[str, ...] = ()

    @property
    def hang_minutes(self) -> float:
        """See `TrainStage`."""
        return self.train.hang_minutes


@dataclasses.dataclass(frozen=True)
class PairsStage:
    """A stage that makes pairs of noise and the teacher's samples.

    Attributes:
        name: See `TrainStage`.
        init: See `TrainStage`.
        section: See `TrainStage`.
        num_pairs: Pairs to train on.
        num_held_out: Pairs to score with.
        shard_size: Pairs of one shard on disk.
        batch_size: Pairs made at once, over all devices.
        sampler: What the sampler has otherwise than the teacher's.
        precision: Type that the teacher computes in.
        hang_minutes: Minutes without a sign of life after which the run ends; 0 is
            never.
    """

    kind: ClassVar[Literal["pairs"]] = "pairs"
    name: str
    init: Init
    section: Mapping[str, Any] = dataclasses.field(compare=False, repr=False)
    num_pairs: int
    num_held_out: int
    shard_size: int
    batch_size: int
    sampler: Keywords
    precision: str
    hang_minutes: float


@dataclasses.dataclass(frozen=True)
class EvaluateStage:
    """The stage that measures models.

    Attributes:
        name: See `TrainStage`.
        init: See `TrainStage`.
        section: See `TrainStage`.
        models: Names of the stages; "teacher@4" asks for 4 steps.
        options: What is measured, on how many images.
        place: Section that its batch size is an option of.
        precision: Type that the models compute in.
        hang_minutes: See `PairsStage`.
    """

    kind: ClassVar[Literal["evaluate"]] = "evaluate"
    name: str
    init: Init
    section: Mapping[str, Any] = dataclasses.field(compare=False, repr=False)
    models: tuple[str, ...]
    options: Evaluate
    place: str
    precision: str
    hang_minutes: float


@dataclasses.dataclass(frozen=True)
class LatentsStage:
    """A stage that encodes the images of the recipe.

    Attributes:
        name: See `TrainStage`.
        section: See `TrainStage`.
        shard_size: Images of one shard on disk.
        batch_size: Images that a device encodes at once.
        precision: Type that the autoencoder computes in.
        hang_minutes: See `PairsStage`.
    """

    kind: ClassVar[Literal["latents"]] = "latents"
    init: ClassVar[Init] = Init()
    name: str
    section: Mapping[str, Any] = dataclasses.field(compare=False, repr=False)
    shard_size: int
    batch_size: int
    precision: str
    hang_minutes: float


Learning = TrainStage | AutoencoderStage
Stage = Learning | PairsStage | EvaluateStage | LatentsStage
# Key of the section `data` -> kind of the stages that make what it names.
MADE = {"autoencoder": "autoencoder", "latents": "latents", "text_encoder": "train"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a run does.

    Attributes:
        name: Name of the recipe.
        stages: The stages in order, rounds written out.
        data: Source of the data set.
        augmented: Keywords of `inputs.make`: what is done to its images.
        spec: Spec of the model.
        table: Path of the table of vectors that are conditions; "" for labels.
        autoencoder: Path of the autoencoder between pixels and latents, or the stage
            that trains it, see `placed`; "" for none.
        latents: Path of the cache of the data's latents, or the stage that makes it; ""
            where images are encoded as they are read.
        text_encoder: Path of the tokenizer and text encoder of prompts, or the stage
            that trains it; "" for none.
        class_names: Name of each class, for `templates`.
        templates: What prompts are made of, see `data.class_prompts`; () for none.
        made: Which of `autoencoder`, `latents` and `text_encoder` stages make, and
            their names.
        partition: What students share; None where there is one.
        teacher: Path of a teacher that is brought; "teacher" for the stage of that
            name.
        teacher_hint: Message shown if the teacher is missing.
        hints: Key of the section `data` -> message shown if what it names is missing.
        seed: Seed of all random numbers.
        evaluate: What is measured where no stage says otherwise.
        sections: Names of the stages' sections in the config; rounds share one.
        config: The config as plain values, for the record alone.
    """

    name: str
    stages: tuple[Stage, ...]
    data: Named
    augmented: Keywords
    spec: Spec
    table: str = ""
    autoencoder: str = ""
    latents: str = ""
    text_encoder: str = ""
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    made: Mapping[str, str] = FrozenDict()
    partition: Partition | None = None
    teacher: str = "teacher"
    teacher_hint: str = ""
    hints: Keywords = frozen({})
    seed: int = 0
    evaluate: Evaluate = Evaluate()
    sections: tuple[str, ...] = ()
    config: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the images."""
        return self.spec.image_shape

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 if unconditional."""
        return self.spec.num_classes

    @property
    def conditions(self) -> Conditions:
        """What its models may be asked for."""
        return self.spec.conditioning

    @property
    def space(self) -> Space:
        """Where the images of its networks live."""
        return self.spec.make_space()

    @property
    def flips(self) -> bool:
        """Whether images are flipped."""
        return bool(self.augmented.get("flip"))

    @property
    def encoded_by(self) -> str | None:
        """The stage that makes the cache of latents; None without."""
        return self.made.get("latents")

    def placed(self, workdir: pathlib.Path) -> "Recipe":
        """The recipe with folders in place of the stages that leave them."""
        return dataclasses.replace(
            self, **{kind: str(workdir / name) for kind, name in self.made.items()}
        )

    @property
    def brings_latents(self) -> bool:
        """Whether there is a cache of latents that none of the stages makes."""
        return bool(self.latents) and "latents" not in self.made

    @property
    def is_brought(self) -> bool:
        """Whether the teacher is none of the stages."""
        return self.teacher != "teacher"
