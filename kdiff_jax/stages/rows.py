"""The rows of a report: a model of the recipe against the data."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdiff_jax import interop, methods
from kdiff_jax.build import EvaluateStage
from kdiff_jax.build.sections import Evaluate
from kdiff_jax.data.images import Images
from kdiff_jax.interop import Model, training
from kdiff_jax.interop.checkpoint import located
from kdiff_jax.partition import ONE, Partition
from kdiff_jax.stages import Job, asked, compared, facts, measured
from kdiff_jax.stages.compared import Reference
from kdiff_jax.train import generate, measure, seeds

NUM_SHOWN = 20  # images of each model in the report


def of_model(
    job: Job,
    name: str,
    stage: EvaluateStage,
    reference: Reference,
    places: np.ndarray,
    batch_option: str,
) -> tuple[dict[str, Any], np.ndarray]:
    """(one row of the report, the images at the places).

    Args:
        job: The job.
        name: The model; "student@4" asks for 4 steps.
        stage: The stage that measures.
        reference: What its images are compared with.
        places: i64[n], of the images to keep.
        batch_option: Option that the batch size is the value of, for messages.
    """
    made_by, _, num_steps = name.partition("@")
    imported = made_by not in {s.name for s in job.stages}
    source = job.recipe.teacher if imported else made_by
    options, model = stage.options, job.model(source, stage.precision)
    steps = dict(num_steps=int(num_steps)) if num_steps else {}
    sampler = measured.sampler_of(model, compared.protocol_of(options), steps)
    questions = asked_of(job, options, model)
    found = measure.generated(
        model,
        sampler,
        reference.looks_with,
        mesh=job.mesh,
        num_images=options.num_images,
        seed=options.seed,
        batch_size=options.batch_size,
        labels=questions.labels(options.seed),
        looks=reference.looks(questions, options.seed, model.num_classes),
        needs=reference.needs,
        places=places,
        name=f"evaluate.models, {name!r}",
        batch_option=batch_option,
    )
    about = {} if imported else facts(job.folder(made_by))
    place = located(source) if imported else job.left(source)
    row = {
        "stage": made_by,
        "role": role_of(job, made_by),
        "method": about.get("method"),
        **measure.facts(model, sampler),
        "num_images": options.num_images,
        **questions.row,
        **reference.about(),
        "train_steps": about.get("train_steps"),
        "train_seconds": about.get("train_seconds"),
        "average": about.get("average") or training.average_of(place, model.spec),
        **found.speeds(),
    }
    if model.num_students > 1:
        row["partition"] = model.partition.to_spec()
    if row["role"] == "student":
        row |= reference.neighbours(found.seen, places)
    return row | _figures(model, found, options, reference, questions), found.shown


def role_of(job: Job, made_by: str) -> str:
    """What a report calls the model of a stage, or one that is brought."""
    found = {s.name: s.method.name for s in job.stages if s.kind == "train"}
    is_teacher = made_by not in found or methods.makes_teachers(found[made_by])
    return "teacher" if is_teacher else "student"


def asked_of(job: Job, options: Evaluate, model: Model) -> asked.Asked:
    """What a section asks a model for."""
    tokenizer, num = job.recipe.text_encoder, options.num_images
    if options.prompts:
        place = "--config.evaluate.prompts"
        return asked.of_prompts(options.prompts, num, model, tokenizer, place)
    known = options.labels, num, model.num_classes, job.frozen
    return asked.of_labels(*known, tokenizer)


def _figures(
    model: Model,
    found: measure.Generated,
    options: Evaluate,
    reference: Reference,
    questions: asked.Asked,
) -> dict[str, Any]:
    """The figures of all seeds, of which the first has been looked at."""
    first, *others = seeds.of(options.seed, options.seeds)
    each = [reference.measured(first, found.seen)]
    for seed in others:
        seen, _ = measure.looked_at(
            found.make,
            model.students,
            reference.looks_with,
            seed=seed,
            labels=questions.labels(seed),
            looks=reference.looks(questions, seed, model.num_classes),
            batch_size=options.batch_size,
            needs=reference.needs,
        )
        each.append(reference.measured(seed, seen))
    return seeds.figures_of(each, options.headline, options.per)


def shown_places(
    job: Job, names: Sequence[str], labels: np.ndarray | None, num_images: int
) -> np.ndarray:
    """i64[n], of the images that the report shows: 20, and of every group of students.

    All models make the same images.

    Args:
        job: The job.
        names: The models.
        labels: i32[N], of the images that are measured; None of prompts of a file.
        num_images: N.
    """
    num, num_classes = min(NUM_SHOWN, num_images), job.recipe.num_classes
    if labels is None:
        return np.arange(num)
    partition = students_of(job, names)
    if partition.num_students == 1 or len(labels) < num_classes:
        return np.arange(num)
    wanted = generate.shown_labels(num, num_classes, partition).tolist()
    places = {label: np.flatnonzero(labels == label) for label in set(wanted)}
    # A label that is shown again is another image of it.
    again = [wanted[:i].count(label) for i, label in enumerate(wanted)]
    found = [
        places[label][i]
        for label, i in zip(wanted, again, strict=True)
        if i < len(places[label])
    ]
    return np.array(found, np.int64)


def students_of(job: Job, names: Sequence[str]) -> Partition:
    """The students of the first of these models that has several; else one."""
    split = [name.partition("@")[0] for name in names]
    about = [job.left(stage) / interop.STAGE for stage in split if job.split(stage)]
    if not about or not about[0].is_file():
        return ONE
    return training.description(about[0].parent).partition or ONE


def real_images(
    job: Job, data: Images, labels: np.ndarray | None, shown: np.ndarray
) -> np.ndarray:
    """Real images, uint8[n, H, W, C], of the labels that the models were asked for.

    An unconditional model is asked for none: then the labels of the data take turns.

    Args:
        job: The job.
        data: The data set.
        labels: i32[N], of the images that are measured; None of prompts of a file.
        shown: i64[n], places of those that are shown.
    """
    # A table of vectors may have rows that no image is of.
    wanted = shown % max(data.num_classes, 1)
    if labels is not None and job.recipe.num_classes:
        wanted = labels[shown]
    wanted, found = wanted.tolist(), []
    for i, label in enumerate(wanted):
        places = np.flatnonzero(data.labels == label)
        places = places if len(places) else np.arange(data.num)
        found.append(places[wanted[:i].count(label) % len(places)])
    return data.read(np.array(found))
