"""The last stage: every model against the data, in one table and one report."""

import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from kdiff_jax import build, interop, sealed
from kdiff_jax.build import EvaluateStage
from kdiff_jax.build.sections import Evaluate
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.interop import training
from kdiff_jax.metrics import features
from kdiff_jax.partition import ONE, Partition
from kdiff_jax.report import environment, grid, html, metrics_log, summary
from kdiff_jax.stages import LACKS, Job, facts, finish, is_done
from kdiff_jax.stages.compared import Reference
from kdiff_jax.train import generate, measure, parallel

log = logging.getLogger(__name__)


def run(job: Job, stage: EvaluateStage) -> None:
    """Measures the models that `models` lists, and writes the report.

    Keywords: models ("stage" or "stage@steps", with the sampler of that stage; rounds
    of progressive distillation by their common name), num_images, features, weights,
    seed, batch_size, metrics, preprocessing, bootstrap, per; see `Evaluate`.
    """
    folder = job.folder(stage.name)
    folder.mkdir(parents=True, exist_ok=True)
    options, option = stage.options, f"--config.{stage.place}.batch_size"
    compared = None
    names = listed(job, stage.models)
    places = shown_places(job, names, options.num_images)
    rows, pictures = [], []
    for name in names:
        path = folder / f"{name}.json"
        found = _measured(path, options)
        if not parallel.from_first_host(found is not None):
            compared = compared or Reference(
                job, options, folder, students_of(job, names)
            )
            found = row_of(job, name, stage, compared, places, option)
            if jax.process_index() == 0:
                _keep(path, *found)
        if found is not None and jax.process_index() == 0:
            row, images = found
            rows.append(row)
            pictures.append((_title(row), images))
    if jax.process_index() == 0:
        pictures.insert(0, ("real images", _real(job, places)))
        write_report(job, rows, pictures)
        lacking = options.features and any(row["features"] is None for row in rows)
        finish(folder, **({LACKS: options.features} if lacking else {}))


def _keep(path: pathlib.Path, row, images) -> None:
    """Writes a row, and the images beside it, whose digest is in it."""
    shown = sealed.write_array(path.with_suffix(".npy"), images)
    sealed.write_json(path, {**row, "shown": shown})  # last: now it is done


def _measured(path: pathlib.Path, options: Evaluate):
    """(row, images) as they were kept, with all that a row has today; None without.

    What is damaged is measured again, and what lacks figures that can be had now.
    """
    if not path.is_file():
        return None
    again = "this model is measured again"
    try:
        row = sealed.read_json(path, error=DataError, way_out=again)
        shown = row.pop("shown", None)
        images = sealed.read_array(
            path.with_suffix(".npy"), shown, error=DataError, way_out=again
        )
    except DataError as error:
        log.error("%s", error)
        return None
    if row.get("features") is None and _can_compare(options):
        return None
    seen = images.dtype == np.uint8 and images.ndim == 4
    return (row, images) if summary.is_whole(row) and seen else None


def _can_compare(options: Evaluate) -> bool:
    """Whether there are features, and the weights that they need."""
    if not options.features:
        return False
    weights = options.weights or None
    return not features.missing(options.features, weights, fetch=options.fetch)


def listed(job: Job, models) -> list[str]:
    """The models by name, rounds written out; "teacher@4" asks for 4 steps."""
    stages = [s.name for s in job.stages if s.kind == "train"]
    if job.recipe.is_brought:
        stages.append("teacher")
    found = []
    for model in models:
        name = model.partition("@")[0]
        matching = [model] if name in stages else []
        matching = matching or [s for s in stages if s.rpartition("_")[0] == name]
        if not matching:
            raise ConfigError(
                f"evaluate.models has {model!r}; stages are {', '.join(stages)}"
            )
        found += matching
    return found


def shown_places(job: Job, names: Sequence[str], num_images: int) -> np.ndarray:
    """i64[n], of the images that the report shows: 20, and of every group of students.

    All models make the same images, those of `cycled_labels`.
    """
    num, num_classes = min(20, num_images), job.recipe.num_classes
    partition = students_of(job, names)
    if partition.num_students == 1 or num_images < num_classes:
        return np.arange(num)
    labels = generate.shown_labels(num, num_classes, partition)
    # Image y, y + num_classes, ... have label y: one more for each time it was shown.
    before = [labels[:i].tolist().count(y) for i, y in enumerate(labels.tolist())]
    places = labels + num_classes * np.array(before)
    return places[places < num_images]


def students_of(job: Job, names: Sequence[str]) -> Partition:
    """The students of the first of these models that has several; else one."""
    split = [name.partition("@")[0] for name in names]
    about = [job.left(stage) / interop.STAGE for stage in split if job.split(stage)]
    if not about or not about[0].is_file():
        return ONE
    return training.description(about[0].parent).partition or ONE


def row_of(
    job: Job,
    name: str,
    stage: EvaluateStage,
    compared: Reference,
    places,
    batch_option: str,
):
    """(one row of the report, the images at the places)."""
    made_by, _, num_steps = name.partition("@")
    imported = made_by not in {s.name for s in job.stages}
    source = job.recipe.teacher if imported else made_by
    options, model = stage.options, job.model(source, stage.precision)
    sampler = model.sampler(num_steps=int(num_steps) if num_steps else None)
    num = options.num_images
    found = measure.generated(
        model,
        sampler,
        compared.features,
        mesh=job.mesh,
        num_images=num,
        seed=options.seed,
        batch_size=options.batch_size,
        labels=generate.cycled_labels(num, model.num_classes),
        needs=compared.needs,
        places=places,
        name=f"evaluate.models, {name!r}",
        batch_option=batch_option,
    )
    about = {} if imported else facts(job.folder(made_by))
    is_teacher = imported or about.get("method") == "denoise"
    row = {
        "stage": made_by,
        "role": "teacher" if is_teacher else "student",
        "method": about.get("method"),
        "sampler": sampler.name,
        "sampler_options": dict(sampler.options),
        "nfe": sampler.nfe,
        "num_params": model.num_params,
        "num_students": model.num_students,
        "num_params_total": model.num_params * model.num_students,
        "precision": stage.precision,
        "macs": measure.macs(model.net),
        "num_images": num,
        "seed": options.seed,
        "metrics": compared.metrics(found),
        "groups": compared.groups(found),
        **compared.about(),
        "images_per_second": found.images_per_second,
        "latency_ms": found.latency_ms,
        "train_steps": about.get("train_steps"),
        "train_seconds": about.get("train_seconds"),
        "average": about.get("average"),
        "timing": found.timing,
        "measured": environment.measured(),
    }
    if model.num_students > 1:
        row["partition"] = model.partition.to_spec()
    return row, found.shown


def _title(row) -> str:
    steps = "1 step" if row["nfe"] == 1 else f"{row['nfe']} evaluations"
    name = row["stage"] if row["stage"] != row["role"] else ""
    return f"{row['role']} {name}".strip() + f", {steps}"


def _real(job: Job, shown: np.ndarray) -> np.ndarray:
    """Real images in the order of labels that the models were asked for."""
    data = build.load_images(job.recipe)
    # A table of vectors may have rows that no image is of.
    num = max(data.num_classes, job.recipe.num_classes, 1)
    asked = shown % num
    found = []
    for i, label in enumerate(asked.tolist()):
        places = np.flatnonzero(data.labels == label)
        places = places if len(places) else np.arange(data.num)
        found.append(places[i // num % len(places)])
    return data.read(np.array(found))


def write_report(job: Job, rows, pictures) -> None:
    """`samples.png`, `report.json`, `report.html`, and the table on the terminal."""
    name, root = job.recipe.name, job.workdir
    grid.save_png(root / "samples.png", grid.side_by_side(pictures))
    report = summary.make_report(name, rows)
    summary.write(root / "report.json", report)
    trained = [s.name for s in job.stages if s.kind == "train"]
    curves = {stage: _curves(job, stage) for stage in trained}
    html.write(
        root / "report.html",
        report=report,
        grids=[("Same noise, every model", root / "samples.png")],
        curves=curves,
        config=job.recipe.config,
    )


def _curves(job: Job, stage: str) -> list[dict[str, Any]]:
    """The log of a training stage; says so if it does not reach the stage's end."""
    path = job.workdir / stage / "metrics.jsonl"
    lines = metrics_log.read(path)
    found = lines[-1]["step"] if lines else 0
    if is_done(job.workdir / stage):
        wanted = facts(job.workdir / stage).get("train_steps", found)
        if found != wanted:
            log.warning(
                "%s: ends at step %d of %d, lines were lost; so do the report's curves",
                *(path, found, wanted),
            )
    return lines
