"""The last stage: every model against the data, in one table and one report."""

import logging
import pathlib
from typing import Any

import jax
import numpy as np

from kdiff_jax import build, sealed
from kdiff_jax.build import EvaluateStage, TrainStage
from kdiff_jax.build.sections import Evaluate
from kdiff_jax.data import captions
from kdiff_jax.data.images import Images
from kdiff_jax.errors import ConfigError, DataError
from kdiff_jax.interop import beside
from kdiff_jax.metrics import features
from kdiff_jax.report import grid, html, metrics_log, summary
from kdiff_jax.stages import (
    LACKS,
    Job,
    denoised,
    facts,
    finish,
    is_done,
    neighbours,
    rows,
)
from kdiff_jax.stages.compared import Reference
from kdiff_jax.stages.grids import below_last
from kdiff_jax.train import label_protocols, parallel

log = logging.getLogger(__name__)
DENOISED = (
    "what teacher and fake score see in the student's images at a noise sigma / alpha;"
    " distribution matching moves the student by the difference"
)
NEAREST = "Samples, and the training images that are nearest, with their distances"


def run(job: Job, stage: EvaluateStage) -> None:
    """Measures the models that `models` lists, and writes the report.

    Keywords: models ("stage" or "stage@steps", with the sampler of that stage; rounds
    of progressive distillation by their common name), num_images, features, weights,
    seed, seeds, headline, labels, batch_size, metrics, preprocessing, bootstrap, per;
    see `Evaluate`.
    """
    folder = job.folder(stage.name)
    folder.mkdir(parents=True, exist_ok=True)
    options, option = stage.options, f"--config.{stage.place}.batch_size"
    compared = None
    names = listed(job, stage.models)
    labels = None
    if not options.prompts:
        num, num_classes = options.num_images, job.recipe.num_classes
        about = options.labels, num, num_classes, options.seed
        labels = label_protocols.labels(*about)
    places = rows.shown_places(job, names, labels, options.num_images)
    measured = []
    for name in names:
        path = folder / f"{name}.json"
        found = _measured(path, options)
        if not parallel.from_first_host(found is not None):
            compared = compared or Reference(
                job, options, folder, rows.students_of(job, names)
            )
            found = rows.of_model(job, name, stage, compared, places, option)
            if jax.process_index() == 0:
                _keep(path, *found)
                log.info("%s: %s", name, summary.said(found[0], options.features))
        if found is not None and jax.process_index() == 0:
            measured.append(found)
    if jax.process_index() == 0:
        data = build.load_images(job.recipe)
        real = rows.real_images(job, data, labels, places)
        measured = _with_neighbours(measured, data)
        prompts = _prompts(job, options, labels, places)
        write_report(job, measured, real, data, prompts)
        lacking = any(row["features"] is None for row, _ in measured)
        lacking = options.features and lacking
        finish(folder, **({LACKS: options.features} if lacking else {}))


def _prompts(job: Job, options: Evaluate, labels, places) -> list[str] | None:
    """What the models were asked for at the places; None where it is no text."""
    if options.prompts:
        texts = captions.prompts(options.prompts)
        return [texts[i % len(texts)] for i in places.tolist()]
    return beside.prompts(job.frozen, job.recipe.text_encoder, labels[places])


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


def _title(row) -> str:
    steps = "1 step" if row["nfe"] == 1 else f"{row['nfe']} evaluations"
    name = row["stage"] if row["stage"] != row["role"] else ""
    return f"{row['role']} {name}".strip() + f", {steps}"


def _with_neighbours(measured, data: Images):
    """Rows of all students with the training images that are nearest to their samples.

    By pixels, where the metrics kept no features of every training image.
    """
    lacking = [
        i
        for i, (row, _) in enumerate(measured)
        if row["role"] == "student" and neighbours.NAME not in row
    ]
    found = list(measured)
    if not lacking:
        return found
    about = neighbours.by_pixels([measured[i][1] for i in lacking], data)
    for i, one in zip(lacking, about, strict=True):
        row, images = measured[i]
        found[i] = ({**row, neighbours.NAME: one}, images)
    return found


def write_report(job: Job, measured, real, data: Images, prompts=None) -> None:
    """`report.json`, `report.html` and its pictures.

    Args:
        job: The job.
        measured: (row, uint8[n, H, W, C] of its images) of each model.
        real: uint8[n, H, W, C], real images of the same labels.
        data: The training images.
        prompts: What the models were asked for at the places, or None.
    """
    name, root = job.recipe.name, job.workdir
    titled = [(_title(row), images, row) for row, images in measured]
    pictures = [("real images", real), *(one[:2] for one in titled)]
    captions = below_last(pictures, prompts)
    picture = grid.side_by_side(pictures, captions=captions)
    grid.save_png(root / "samples.png", picture)
    grids = [("Same noise, every model", root / "samples.png")]
    beside = [
        (title, images, row[neighbours.NAME])
        for title, images, row in titled
        if neighbours.NAME in row
    ]
    if beside:
        path = root / f"{neighbours.NAME}.png"
        grid.save_png(path, neighbours.picture(beside, data))
        grids.append((NEAREST, path))
    grids += [one for s in job.stages if s.kind == "train" for one in _denoised(job, s)]
    report = summary.make_report(name, [row for row, _ in measured])
    summary.write(root / "report.json", report)
    trained = [s.name for s in job.stages if s.kind == "train"]
    curves = {stage: _curves(job, stage) for stage in trained}
    html.write(
        root / "report.html",
        report=report,
        grids=grids,
        curves=curves,
        config=job.recipe.config,
    )


def _denoised(job: Job, stage: TrainStage) -> list[tuple[str, pathlib.Path]]:
    """The last picture of a stage with a fake score."""
    folder = job.folder(stage.name) / "samples" / denoised.FOLDER
    steps = sorted(int(p.stem) for p in folder.glob("*.png") if p.stem.isdigit())
    title = f"{stage.name}, step {{}}: {DENOISED}"
    return [(title.format(s), folder / f"{s}.png") for s in steps[-1:]]


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
