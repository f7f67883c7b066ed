"""Quick figures while a stage trains: those of the evaluation, of fewer images."""

import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from kdiff_jax.build import TrainStage
from kdiff_jax.build.sections import Train
from kdiff_jax.errors import CheckpointError, ConfigError, NumericsError
from kdiff_jax.files import json_text
from kdiff_jax.interop import Spec
from kdiff_jax.metrics import features as extractors
from kdiff_jax.metrics import table
from kdiff_jax.metrics.collect import AS_THEY_ARE
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.moments import check_memory
from kdiff_jax.metrics.seen import Seen
from kdiff_jax.stages import Job, asked, compared, grids, results
from kdiff_jax.stages.best import Best
from kdiff_jax.stages.hooks import Log
from kdiff_jax.stages.roles import Roles
from kdiff_jax.stages.students import Students
from kdiff_jax.train import generate, label_protocols, measure, parallel

logger = logging.getLogger(__name__)


class Measure(NamedTuple):
    """What a figure is, and how it comes of a state.

    Attributes:
        make: Makes the images; one that has made some compiles nothing.
        features: What they are looked at with.
        reference: What they are compared with.
        metrics: Names of metrics.
        average: Average of the student that is measured, None for the parameters.
        asked: seed, labels, batch_size and looks of the images.
        about: All of that in plain values.
    """

    make: generate.Generator
    features: Features
    reference: Seen
    metrics: tuple[str, ...]
    average: str | None
    asked: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def ending(self) -> str:
        """What stands behind a figure's name in the log: images, and average."""
        return f"_n{self.about['num_images']}_{self.about['average']}"

    def __call__(self, state) -> dict[str, float]:
        """Figures by their names in reports, the same on every host.

        NaN if an image is not finite: a step that is none for a figure may be one for
        the training.

        Raises:
            Interrupted: If a signal asked to stop.
        """
        params = results.params_of(state.nets["student"], self.average)
        own = results.encoder_of(state, self.average)
        needs, names = table.needs(self.metrics), self.metrics
        try:
            seen, _ = measure.looked_at(
                self.make, params, self.features, needs=needs, frozen=own, **self.asked
            )
            found = table.measure(names, self.features, seen, self.reference)
        except NumericsError as error:
            logger.warning("%s; the figures of this step are NaN", error)
            found = dict.fromkeys(table.better(names, self.features.name), math.nan)
        return {k: float(parallel.from_first_host(v)) for k, v in found.items()}


class Figures:
    """The hook: measures, writes to the log, and offers the state as the best.

    Args:
        found: What is measured.
        log: Gets the figures.
        best: Is offered every state with its figure; None if nothing is kept.
        best_by: The figure that it is offered with.
    """

    def __init__(
        self, found: Measure, log: Log, best: Best | None = None, best_by: str = ""
    ):
        self._measure, self._log = found, log
        self._best, self._by = best, best_by

    def begin(self, step: int, state, train: Train) -> None:
        """Makes up for figures of the step resumed at, which a signal may cut short."""
        due = step and (step % train.figure_every == 0 or step == train.num_steps)
        lacks = due and not self._log.has_figures(step, self._measure.ending)
        if parallel.from_first_host(bool(lacks)):
            self(step, state)

    def __call__(self, step, state) -> None:
        began = time.monotonic()
        values = self._measure(state)
        if self._best:
            self._best.offer(step, state, values[self._by])
        named = {name + self._measure.ending: value for name, value in values.items()}
        self._log.figures(step, named, time.monotonic() - began)


def of_stage(
    job: Job, stage: TrainStage, roles: Roles, students: Students
) -> Measure | None:
    """What a stage measures while it trains; None without figures.

    Students of a partition are measured together, as the model that they become: each
    makes the images of what it owns. One that is trained alone is not measured. Images
    are the first ones of the evaluation, from the same noise.

    Raises:
        CheckpointError: If the file of the features' weights is missing, and the result
            goes by a figure.
    """
    train, options = stage.train, compared.options_of(job)
    if not train.figure_every:
        return None
    if students.is_part:
        logger.info("%s: no quick figures, which are of all students", stage.name)
        return None
    if line := missing(job, stage):
        job.warn_once(line)
        return None
    features = compared.features_for(job, options)
    assert features is not None, "not missing"
    needed = table.needs_of_reference(train.figure_metrics)
    needed |= compared.needs_of_reference(options)
    folder = compared.folder_of(job) or job.folder(stage.name)
    reference = compared.statistics(job, features, folder, needed)
    option = "--config.evaluate.batch_size"
    make = grids.generator(job, stage, roles, students, batch_option=option)
    num, num_classes = train.figure_images, roles.spec.num_classes
    known = options.labels, num, num_classes, job.frozen, job.recipe.text_encoder
    questions = asked.of_labels(*known)
    looks = AS_THEY_ARE
    if asked.CLASSES in table.needs(train.figure_metrics):
        names = features.extractor.classes
        classes = questions.classes(options.seed, names, num_classes)
        looks = looks._replace(classes=classes)
    about_images = dict(
        seed=options.seed,
        labels=questions.labels(options.seed),
        batch_size=options.batch_size,
        looks=looks,
    )
    average = results.average_of_figures(train)
    about = {
        "num_images": num,
        "average": average or "params",
        "seed": options.seed,
        "labels": label_protocols.of_row(options.labels, num_classes),
        "sampler": make.sampler.name,
        "sampler_options": dict(make.sampler.options),
        "nfe": make.sampler.nfe,
        "features": features.provenance,
        "compared_with": reference.provenance,
    }
    about = json.loads(json_text(about))  # as a file of it says
    logger.info("%s: quick figures of %s", stage.name, json_text(about))
    dim = len(reference.mu)
    if num <= dim:
        logger.warning(
            "%s=%d: no more than the %d features, so that distances are too large: they"
            " compare steps with each other, and with nothing else",
            *(results.option(job, stage, "figure_images"), num, dim),
        )
    compare = features, reference.seen, train.figure_metrics
    return Measure(make, *compare, average, about_images, about)


def missing(job: Job, stage: TrainStage) -> str:
    """In a line, that the weights of the features are not there; "" if they are.

    Raises:
        CheckpointError: If the result goes by a figure: it is not left out.
    """
    train, options = stage.train, compared.options_of(job)
    lacks = compared.missing(options)
    if not lacks:
        return ""
    if train.result == "best" and train.best_by != results.HELD_OUT:
        raise CheckpointError(
            f"stages.{stage.name}.train.result='best': goes by a figure, and {lacks};"
            " or choose params or ema"
        )
    option = results.option(job, stage, "figure_every")
    return f"{option}={train.figure_every}: is left out: {lacks}"


def check(job: Job, stage: TrainStage, spec: Spec) -> None:
    """Refuses, before anything runs, figures that could not be measured.

    Args:
        job: The job.
        stage: A training stage.
        spec: Spec of its student.

    Raises:
        ConfigError: If the metrics cannot be taken on the features or of so few images,
            or the student is asked for no label to draw.
        CheckpointError: See `missing`.
    """
    train, options = stage.train, compared.options_of(job)
    if not train.figure_every:
        return
    if line := missing(job, stage):
        job.warn_once(line)
        return
    features = compared.features_for(job, options)
    assert features is not None, "not missing"
    shape = job.recipe.space.pixel_shape
    try:
        extractors.check_shape(features, shape)
        table.check(train.figure_metrics, features, train.figure_images)
        if asked.needs_clip(train.figure_metrics):
            raise ConfigError("figure_metrics: has clip_score, which is none of these")
        label_protocols.check(options.labels, spec.num_classes)
        dim = extractors.dim_of(features, shape)
        check_memory(f"features={features.name}", dim)
    except ConfigError as error:
        option = results.option(job, stage, "figure_every")
        raise ConfigError(
            f"{option}={train.figure_every}: cannot measure, {error}; or set"
            " figure_every=0"
        ) from error
