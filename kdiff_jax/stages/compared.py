"""What the models of a stage are compared with, and how."""

import logging
import pathlib
import zlib
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from kdiff_jax import build, text
from kdiff_jax.build.sections import Evaluate
from kdiff_jax.data.images import Images
from kdiff_jax.errors import DataError
from kdiff_jax.metrics import caveats, groups, stats, table
from kdiff_jax.metrics import features as feature_extractors
from kdiff_jax.metrics.collect import Looks
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.moments import check_memory
from kdiff_jax.metrics.seen import Seen
from kdiff_jax.partition import Partition
from kdiff_jax.stages import Job, asked, neighbours
from kdiff_jax.text.clip import Clip
from kdiff_jax.train import coco_protocols, parallel, preparation, reference
from kdiff_jax.train.coco_protocols import Protocol
from kdiff_jax.train.seeds import Measured

log = logging.getLogger(__name__)


class Reference:
    """What the models are compared with: features of the whole data set.

    Without features, or without the public file of their weights, nothing is compared,
    and speed, pictures and CLIP scores are all there is. The
    statistics stay in the stage's folder, as `reference_<features>.npz`.

    Args:
        job: The job.
        options: What is measured.
        folder: The stage's folder.
        partition: The students whose parts are measured, those with one student too.
    """

    def __init__(
        self, job: Job, options: Evaluate, folder: pathlib.Path, partition: Partition
    ) -> None:
        self.features, self.options, self._clip = None, options, None
        self._told_groups = False
        self.needs: frozenset[str] = frozenset()
        if not options.features:
            return
        self.features, self._clip = features_for(job, options), clip_of(job, options)
        if self.features is None:
            self.needs = frozenset({asked.NEED} if self._clip else ())
            return
        shape = shape_of(job, options)
        dim = feature_extractors.dim_of(self.features, shape)
        check_memory(f"evaluate.features={options.features}", dim)
        classes = job.recipe.num_classes
        self.parts = groups.of(options.per, classes, partition)
        table.warn_of_bootstrap(options.metrics, options.bootstrap)
        self.needs = table.needs(options.metrics, bootstrap=options.bootstrap > 0)
        needed = needs_of_reference(options)
        if self.parts:
            self.needs |= groups.needs(options.metrics)
        self.stats = statistics(job, self.features, folder, needed, options)
        named = options.reference or job.recipe.data.name
        caveats.of_reference(named, options.metrics, self.stats.seen)

    @property
    def looks_with(self) -> Features | None:
        """What images are looked at with: the features, or any beside a CLIP."""
        if self.features is None and self._clip:
            return feature_extractors.make("pixels")
        return self.features

    def looks(self, questions: asked.Asked, seed: int, num_classes: int) -> Looks:
        """What is done with images that are asked for so, see `asked.looks`.

        Args:
            questions: What they are asked for.
            seed: Seed of the images.
            num_classes: Number of classes of the model.
        """
        protocol = protocol_of(self.options)
        if self.looks_with is None:
            return Looks()
        texts = questions.texts(seed) if self._clip else None
        classes = None
        if asked.CLASSES in self.needs and self.features is not None:
            names = self.features.extractor.classes
            classes = questions.classes(seed, names, num_classes)
        return asked.looks(self._clip, texts, protocol, self.needs, classes)

    def about(self) -> dict[str, Any]:
        """What the figures of a row are of."""
        found: dict[str, Any] = {"features": None, "compared_with": None}
        used: dict[str, Any] = {"num_images": self.options.num_images}
        if self.features is not None:
            found["features"] = self.features.provenance
            found["compared_with"] = self.stats.provenance
            used["features"] = self.features.name
            used["preprocessing"] = self.features.preprocessing
        if self._clip:
            found["clip"] = self._clip.provenance
        if protocol := protocol_of(self.options):
            found["protocol"] = protocol.of_row(used)
        return found

    def measured(self, seed: int, seen: Seen) -> Measured:
        """Figures of the images of one seed, and the caveats of the first."""
        if self.features is not None and seed == self.options.seed:
            self._warn(self.features, seen)
        return Measured(seed, self.metrics(seen), self.groups(seen))

    def _warn(self, features: Features, ours: Seen) -> None:
        """Says what makes figures worth little; groups are those of all models."""
        names, theirs = self.options.metrics, self.stats.seen
        caveats.of_samples(names, features, ours, theirs)
        if self.parts and not self._told_groups:
            caveats.of_groups(names, ours, theirs, self.parts)
            self._told_groups = True

    def metrics(self, ours: Seen) -> dict[str, float]:
        """Figures of all metrics by their names; CLIP scores alone without features."""
        if self.features is None:
            if not self.needs:
                return {}
            own = [n for n in self.options.metrics if table.needs([n]) == self.needs]
            return table.measure(own, feature_extractors.make("pixels"), ours, Seen())
        names, theirs = self.options.metrics, self.stats.seen
        draws = self.options.bootstrap
        about = names, self.features, ours, theirs
        return table.finite(table.measure(*about, bootstrap=draws))

    def neighbours(self, ours: Seen, places: np.ndarray) -> dict[str, Any]:
        """Training images nearest to those at the places; {} where no rows are kept."""
        if self.features is None or self.options.reference:  # of other images
            return {}
        if ours.rows is None or self.stats.seen.rows is None:
            return {}
        about = self.features
        rows = neighbours.of_rows(ours.rows[places], self.stats.seen.rows, about)
        return {neighbours.NAME: rows}

    def groups(self, ours: Seen) -> dict[str, Any]:
        """Figures of each class or each student's part; {} where none are asked for."""
        if self.features is None or not self.parts:
            return {}
        names, theirs = self.options.metrics, self.stats.seen
        return groups.measure(names, self.features, ours, theirs, self.parts)


def options_of(job: Job) -> Evaluate:
    """Options of the recipe's stage that evaluates; without one, those of all."""
    own = [s.options for s in job.stages if s.kind == "evaluate"]
    return own[0] if own else job.recipe.evaluate


def needs_of_reference(options: Evaluate) -> frozenset[str]:
    """What an evaluation with these options reads of its reference."""
    found = table.needs_of_reference(options.metrics)
    return found | groups.needs_of_reference(options.metrics) if options.per else found


def protocol_of(options: Evaluate) -> Protocol | None:
    """The protocol of a paper that a section names."""
    return coco_protocols.make(options.protocol) if options.protocol else None


def shape_of(job: Job, options: Evaluate) -> tuple[int, ...]:
    """(H, W, C) of images as they are measured."""
    protocol = protocol_of(options)
    return protocol.shape() if protocol else job.recipe.space.pixel_shape


def clip_of(job: Job, options: Evaluate) -> Clip | None:
    """The CLIP that a section names, where one of its metrics reads it."""
    if not options.clip or not asked.needs_clip(options.metrics):
        return None
    tokenizer = options.clip_tokenizer or None
    return text.load_clip(options.clip, tokenizer=tokenizer, mesh=job.mesh)


def statistics(
    job: Job,
    features: Features,
    folder: pathlib.Path,
    needed: frozenset[str],
    options: Evaluate | None = None,
) -> stats.Stats:
    """Statistics of the whole data set, made where they are not in the folder yet.

    Or those of the reference that the options name.
    """
    named, shape = options.reference if options else "", job.recipe.space.pixel_shape
    shape = shape_of(job, options) if named and options else shape
    key = f"{named}/{options.protocol}" if named and options else ""
    end = f"_{zlib.crc32(key.encode()):08x}" if key else ""
    path = folder / f"reference_{features.name}{end}.npz"
    if not parallel.from_first_host(_is_reference(path, features, needed)):
        if named and options:
            place = pathlib.Path(named).expanduser()
            protocol = protocol_of(options)
            found = reference.of(named, place, features, shape, needed, protocol)
            data = None if protocol else build.load_images(job.recipe).prepared
            preparation.check(named, found, protocol, data)
        else:
            data = build.load_images(job.recipe)
            found = reference.of_images(data.name, data, features, needed)
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            stats.save(path, found)
        parallel.wait_for_all("reference")
    dim = feature_extractors.dim_of(features, shape)
    return stats.load_stats(path, features=features, dim=dim, needs=needed)


def check_reference(
    job: Job, options: Evaluate, features: Features, data: Images | None
) -> None:
    """Refuses, before anything runs, statistics that no model can be compared with.

    Args:
        job: The job.
        options: What is measured.
        features: The features.
        data: Images of the recipe; None where they are not there yet.

    Raises:
        DataError: Names both.
    """
    path = pathlib.Path(options.reference).expanduser()
    if not options.reference or not stats.is_stats(path):
        return
    shape = shape_of(job, options)
    found = stats.load_stats(
        path,
        features=features,
        dim=feature_extractors.dim_of(features, shape),
        image_shape=shape,
        needs=needs_of_reference(options),
    )
    prepared = data.prepared if data else None
    preparation.refuse(options.reference, found, protocol_of(options), prepared)


def folder_of(job: Job) -> pathlib.Path | None:
    """Folder of the recipe's stage that evaluates, where its reference lies."""
    names = [s.name for s in job.stages if s.kind == "evaluate"]
    return job.folder(names[0]) if names else None


def features_for(job: Job, options: Evaluate) -> Features | None:
    """As `features_of`, on the job's devices; stages of a job share one network."""
    key = options.features, options.weights, options.preprocessing
    if key not in job.extractors:
        if left_out(job, options):
            return None
        job.extractors[key] = features_of(options, job.mesh)
    return job.extractors[key]


def missing(options: Evaluate) -> str:
    """What is missing of the features' weights on any host, in words; "" if nothing."""
    weights = options.weights or None
    lacks = feature_extractors.missing(options.features, weights, fetch=options.fetch)
    if not parallel.on_any_host(lacks is not None):
        return ""
    return lacks or "a host lacks the file of its weights: put it at its place"


def left_out(job: Job, options: Evaluate) -> bool:
    """Whether figures are left out for want of the features' weights, said once.

    A recipe states its metric, and whoever has no such file still gets the student and
    all other figures.
    """
    lacks = missing(options)
    if lacks:
        job.warn_once(line_of(options, lacks))
    return bool(lacks)


def line_of(options: Evaluate, lacks: str) -> str:
    """That figures are left out for want of what `missing` said, and the ways out."""
    return (
        f"--config.evaluate.features={options.features} is left out: {lacks} (or set"
        " evaluate.fetch or evaluate.weights) and run the same command again, which"
        " measures what is missing; all other figures are made"
    )


def features_of(options: Evaluate, mesh) -> Features:
    """The features that a section names, on these devices."""
    return feature_extractors.make(
        options.features,
        weights=options.weights or None,
        preprocessing=options.preprocessing or None,
        fetch=options.fetch,
        mesh=mesh,
    )


def _is_reference(
    path: pathlib.Path, features: Features, needs: Collection[str]
) -> bool:
    """Whether the statistics are there, as they were written, with all that is read."""
    if not path.is_file():
        return False
    try:
        stats.load_stats(path, features=features, needs=needs)
    except DataError as error:
        log.error("%s; they are computed again", error)
        return False
    return True
