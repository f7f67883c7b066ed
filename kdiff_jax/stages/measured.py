"""One measurement outside of a recipe: a model, or images that are there, as a row."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from kdiff_jax import interop, text
from kdiff_jax.data import captions, folder
from kdiff_jax.data.encoded import Look, are_grey
from kdiff_jax.data.images import Images
from kdiff_jax.errors import ConfigError, DataError, UserError
from kdiff_jax.interop import beside, training
from kdiff_jax.interop.checkpoint import located
from kdiff_jax.metrics import caveats, groups, moments, table
from kdiff_jax.metrics import features as extractors
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.seen import Seen
from kdiff_jax.metrics.stats import Stats
from kdiff_jax.report import environment
from kdiff_jax.samplers import Sampler
from kdiff_jax.stages import asked
from kdiff_jax.text.clip import Clip
from kdiff_jax.train import label_protocols, measure, preparation, reference, seeds
from kdiff_jax.train.coco_protocols import Protocol

NUM_IMAGES = 10_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured, and how; see the flags of `evaluate`.

    Attributes:
        mesh: The devices.
        features: What metrics read.
        metrics: What is measured.
        reference: Statistics, or a data set; None where no metric compares with any.
        reference_path: The same as a path.
        num_images: Number of images; None for 10,000, or all that there are.
        protocol: A protocol of a paper.
        prompts: File of prompts; None for what the model knows.
        clip: Folder or file of a CLIP.
        clip_tokenizer: Folder with its tokenizer.
        labels: A protocol of `train.label_protocols`.
        seed: Seed of the noise.
        seeds: Number of seeds.
        headline: "best" or "mean", of several seeds.
        bootstrap: Draws for an interval of each figure that they tell.
        per: "class" or "student", to measure each of them, too.
        batch_size: Images a call.
    """

    mesh: Mesh
    features: Features
    metrics: tuple[str, ...]
    reference: str | None
    reference_path: pathlib.Path | None
    num_images: int | None
    protocol: Protocol | None
    prompts: str | None
    clip: str | None
    clip_tokenizer: str | None
    labels: str
    seed: int
    seeds: int
    headline: str
    bootstrap: int
    per: str | None
    batch_size: int

    def needs(self, parts: Mapping[str, Any]) -> frozenset[str]:
        """What is read of samples."""
        found = table.needs(self.metrics, bootstrap=self.bootstrap > 0)
        return found | groups.needs(self.metrics) if parts else found

    def statistics(
        self, shape: tuple[int, ...], parts: Mapping[str, Any]
    ) -> Stats | None:
        """Those of the reference; None where there is none."""
        if self.reference is None or self.reference_path is None:
            return None
        needs = table.needs_of_reference(self.metrics)
        if parts:
            needs |= groups.needs_of_reference(self.metrics)
        about = self.features, shape, needs, self.protocol
        found = reference.of(self.reference, self.reference_path, *about)
        preparation.check(self.reference, found, self.protocol)
        caveats.of_reference(self.reference, self.metrics, found.seen)
        return found

    def load_clip(self) -> Clip | None:
        """The CLIP, where a metric reads it."""
        if self.clip is None or not asked.needs_clip(self.metrics):
            return None
        about: dict[str, Any] = dict(tokenizer=self.clip_tokenizer, mesh=self.mesh)
        return text.load_clip(self.clip, **about)

    def row(self, stats: Stats | None, clip: Clip | None, num: int) -> dict[str, Any]:
        """What a row says of all that."""
        found: dict[str, Any] = {
            "features": self.features.provenance,
            "compared_with": stats.provenance if stats else None,
        }
        if clip:
            found["clip"] = clip.provenance
        if self.protocol:
            used = dict(
                features=self.features.name,
                preprocessing=self.features.preprocessing,
                num_images=num,
            )
            found["protocol"] = self.protocol.of_row(used)
        return found


def model(
    source: str,
    told: Settings,
    sampler: Callable[[interop.Model], Sampler],
    precision: str | None = None,
) -> dict[str, Any]:
    """The row of a model.

    Args:
        source: The model.
        told: What is measured.
        sampler: (model) -> the sampler that makes its images, see `sampler_of`.
        precision: Type that its network computes in; None for its own.
    """
    num = told.num_images or NUM_IMAGES
    table.check(told.metrics, told.features, num)
    table.warn_of_bootstrap(told.metrics, told.bootstrap)
    found = text.load_model(source, precision)
    label_protocols.check(told.labels, found.num_classes)
    tried = seeds.of(told.seed, told.seeds)
    own_sampler = sampler(found)
    shape = told.protocol.shape() if told.protocol else found.net.space.pixel_shape
    dim = extractors.dim_of(told.features, shape)
    moments.check_memory(f"--features={told.features.name}", dim)
    tokenizer = beside.with_tokenizer(located(source))
    if told.prompts:
        about = told.prompts, num, found, tokenizer
        questions = asked.of_prompts(*about, "--prompts")
    else:
        known = told.labels, num, found.num_classes, found.frozen
        questions = asked.of_labels(*known, tokenizer)
    parts = groups.of(told.per, found.num_classes, found.partition)
    if parts and told.prompts:
        raise ConfigError(f"--per={told.per}: prompts of a file have no classes")
    needs, stats = told.needs(parts), told.statistics(shape, parts)
    clip = told.load_clip()

    def about_seed(seed) -> dict[str, Any]:
        texts = questions.texts(seed) if clip else None
        classes = None
        if asked.CLASSES in needs:
            names = told.features.extractor.classes
            classes = questions.classes(seed, names, found.num_classes)
        looks = asked.looks(clip, texts, told.protocol, needs, classes)
        common: dict[str, Any] = dict(batch_size=told.batch_size, needs=needs)
        return dict(labels=questions.labels(seed), seed=seed, looks=looks, **common)

    def measured(seed, seen):
        own: Mapping[str, Any] = {}
        if parts and stats:
            if seed == tried[0]:
                caveats.of_groups(told.metrics, seen, stats.seen, parts)
            about = told.metrics, told.features, seen, stats.seen
            own = groups.measure(*about, parts)
        figures = figures_of(told, seen, stats, warn=seed == tried[0])
        return seeds.Measured(seed, figures, own)

    made = measure.generated(
        found,
        own_sampler,
        told.features,
        mesh=told.mesh,
        num_images=num,
        name=f"--checkpoint={source}",
        **about_seed(tried[0]),
    )
    each = [measured(tried[0], made.seen)]
    for seed in tried[1:]:
        again = made.make, found.students, told.features
        seen, _ = measure.looked_at(*again, **about_seed(seed))
        each.append(measured(seed, seen))
    return {
        "checkpoint": source,
        "reference": told.reference,
        **measure.facts(found, own_sampler),
        "num_images": num,
        **questions.row,
        **seeds.figures_of(each, told.headline, told.per),
        "average": training.average_of(located(source), found.spec),
        **told.row(stats, clip, num),
        **made.speeds(),
    }


def images(source: str, told: Settings) -> dict[str, Any]:
    """The row of images that are there, sorted by their names.

    Their prompts are those of a file, in this order, or lie beside them.
    """
    data = folder_of(source, told.features)
    num = min(told.num_images or data.num, data.num)
    data = data._replace(num=num, labels=data.labels[:num])
    table.check(told.metrics, told.features, num)
    table.warn_of_bootstrap(told.metrics, told.bootstrap)
    needs = told.needs({})
    shape = told.protocol.shape() if told.protocol else data.shape
    stats, clip = told.statistics(shape, {}), told.load_clip()
    texts, about, classes = None, {}, None
    if clip or asked.CLASSES in needs:
        texts = captions.prompts(told.prompts or source)
        if len(texts) < num:
            raise ConfigError(
                f"--prompts={told.prompts or source}: {len(texts)} prompts of"
                f" {num} images; give one for each, or fewer --num_images"
            )
        texts = texts[:num]
        about = {"prompts": asked.about(told.prompts or source, texts)}
    if texts and asked.CLASSES in needs:
        classes = asked.classes_of(texts, told.features.extractor.classes)
    looks = asked.looks(clip, texts, told.protocol, needs, classes)
    seen = measure.of_data(data, told.features, needs=needs, looks=looks)
    return {
        "checkpoint": source,
        "reference": told.reference,
        "sampler": "images",
        "sampler_options": {},
        "nfe": 0,
        "num_images": num,
        **about,
        "seed": None,
        "metrics": figures_of(told, seen, stats),
        "groups": {},
        **told.row(stats, clip, num),
        "measured": environment.measured(),
    }


def folder_of(source: str, features: Features) -> Images:
    """The images of a folder as the features read them.

    Raises:
        ConfigError: If it is no folder.
        DataError: If its images cannot be read or are of several sizes, or are all grey
            where the features read colour.
    """
    path = str(pathlib.Path(source).expanduser())
    if not pathlib.Path(path).is_dir():
        raise ConfigError(f"--images={source}: is no folder; give a folder of images")
    channels = features.extractor.channels
    try:
        data = folder.read(path, Look(channels=channels))
    except UserError as error:
        # Whose ways out are options of a recipe.
        why = re.sub(r"[;,] [^;,]*\bdata\.\w.*", "", str(error))
        raise type(error)(
            f"--images={source}: {why}; give files of one size, all colour or all grey"
        ) from error
    # Among images in colour a grey one is one of them: COCO has such.
    if channels == 3 and are_grey(data):
        raise DataError(
            f"--images={source}: all are grey, and features={features.name} and what"
            " they are compared with are of colour; give images in colour, or compare"
            " both in grey by --features=pixels"
        )
    return data


def figures_of(
    told: Settings, seen: Seen, stats: Stats | None, *, warn: bool = True
) -> dict[str, float]:
    """All figures; with `warn` lines of the log say what makes them worth little."""
    other = stats.seen if stats else Seen()
    about = told.metrics, told.features, seen, other
    if warn:
        caveats.of_samples(*about)
    return table.finite(table.measure(*about, bootstrap=told.bootstrap))


def sampler_of(
    model: interop.Model, protocol: Protocol | None, keywords: Mapping[str, Any]
) -> Sampler:
    """The sampler that is named; else the protocol's, of models with several steps."""
    if keywords or protocol is None or protocol.sampler is None:
        return model.sampler(**keywords)
    if model.spec.sampler is not None and model.sampler().nfe == 1:
        return model.sampler()
    name, options = protocol.sampler
    return model.sampler(name, **options)
