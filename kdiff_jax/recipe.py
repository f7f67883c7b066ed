"""A recipe: the stages of one config, one after the other, each a resumable run.

A finished stage is skipped and a half-finished one resumes, so running the same command
again is always right.
"""

import logging
import os
import pathlib

import jax

from kdiff_jax import build, stages
from kdiff_jax.data.images import Images
from kdiff_jax.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    NotGiven,
)
from kdiff_jax.report import environment, summary
from kdiff_jax.stages import (
    Job,
    autoencoder,
    before,
    compared,
    encoded,
    evaluate,
    locks,
    pairs,
    place,
    record,
    rehearsal,
    results,
    same_data,
    students,
    train,
)
from kdiff_jax.train import hosts, parallel, signals, watchdog

log = logging.getLogger(__name__)
# Folders of the Hub beside which there is one of the moving average.
RAW = (
    *("ddpm-cifar10-32", "ddpm-church-256", "ddpm-bedroom-256", "ddpm-cat-256"),
    "ddpm-celebahq-256",
)

KINDS = {
    **{"train": train.run, "pairs": pairs.run, "evaluate": evaluate.run},
    **{"autoencoder": autoencoder.run, "latents": encoded.run},
}


def run(
    config,
    workdir,
    *,
    only: str | None = None,
    force: bool = False,
    overrides=None,
    devices=None,
) -> None:
    """Runs every stage that is not done.

    Args:
        config: A ConfigDict, or plain values.
        workdir: Holds everything; made where it does not exist.
        only: Run this stage alone.
        force: Continue although the config has changed.
        overrides: What the command line changed, for the record.
        devices: Devices to run on; None for all.

    Raises:
        UserError: What a user can mend, in one line.
        Interrupted: If a signal asked to stop; everything is saved.
    """
    job = make_job(config, workdir, devices=devices)
    check_stage(job, only)
    about = {"config": _everywhere(job.recipe.config), "--stage": only, "force": force}
    hosts.compare(about | {"versions": environment.versions()})
    data = check_inputs(job)
    held = hosts.on_first(lambda: locks.take(job, only))
    try:
        if held:
            hosts.check_shared(job.workdir)
        record.write(job, force, overrides)
        if data is not None:
            same_data.check(job, data, force=force)
        _run_stages(job, only)
    finally:
        locks.release()
    _say_what_is_there(job, only)


def _run_stages(job: Job, only: str | None) -> None:
    for stage in job.stages:
        if only and stage.name != only:
            continue
        if job.only is not None and not only and not job.split(stage.name):
            continue  # what all students need, or what needs all of them
        # The first host decides: storage that hosts share may show them a file late.
        if parallel.from_first_host(job.is_done(stage)):
            log.info("stage %s is done", stage.name)
            continue
        if signals.asked():
            raise Interrupted(
                f"stopped before stage {stage.name}; everything is saved: the same"
                " command resumes"
            )
        log.info("stage %s", stage.name)
        with watchdog.watch(f"stage {stage.name!r}", stage.hang_minutes):
            KINDS[stage.kind](job, stage)
        parallel.wait_for_all(stage.name)


def _say_what_is_there(job: Job, only: str | None) -> None:
    """Prints what has been made, and where it lies."""
    split = [stage.name for stage in job.stages if job.split(stage.name)]
    alone = job.only is not None and all(stages.is_done(job.left(s)) for s in split)
    if alone and jax.process_index() == 0:
        print(
            f"student {job.only} is trained; when all are, the same command without"
            " partition.only joins and evaluates them",
            flush=True,
        )
    if job.only is not None:
        return
    report = job.workdir / "report.json"
    if only or jax.process_index() != 0:
        return
    if not report.is_file():
        for stage in job.stages:
            if stage.kind == "evaluate":
                mark = job.folder(stage.name) / stages.DONE
                log.error(
                    "%s: is gone; delete %s and run the same command again, which"
                    " writes it from the rows that are there",
                    *(report, mark),
                )
    else:
        rows = summary.read(report)["rows"]
        print(summary.text_table(rows))
        print(f"sample grid: {job.workdir / 'samples.png'}")
        print(f"report: {job.workdir / 'report.html'}", flush=True)


def _everywhere(tree):
    """What must be the same on all hosts; files may lie in other places."""
    if isinstance(tree, dict):
        own = ("path", "weights", "embeddings", "conditions")
        return {k: _everywhere(v) for k, v in tree.items() if k not in own}
    return tree


def check_stage(job: Job, name: str | None) -> None:
    """Refuses to run alone what is no stage, or needs all students where one is asked.

    Raises:
        ConfigError: Names the stage.
    """
    names = [stage.name for stage in job.stages]
    if name and name not in names:
        raise ConfigError(
            f"--stage={name}: is no stage of this config; choose one of"
            f" {', '.join(names)}"
        )
    if not name or job.only is None:
        return
    (stage,) = (s for s in job.stages if s.name == name)
    needs_all = stage.kind == "evaluate" or any(map(job.split, stage.init.stages))
    if needs_all and not job.split(name):
        raise ConfigError(
            f"--stage={name}: needs all students, and partition.only={job.only} is one;"
            " leave partition.only out"
        )


def make_job(config, workdir, *, devices=None) -> Job:
    """The stages of a config, over these devices, or all."""
    config = build.plain(config)
    build.check(config)
    workdir, mesh = pathlib.Path(workdir).absolute(), parallel.make_mesh(devices)
    recipe = build.resolve(config).placed(workdir)
    job = Job(recipe, workdir, mesh)
    before.check(job)
    paths = recipe.table, recipe.autoencoder, recipe.text_encoder
    if not job.lacks and all(
        os.path.exists(os.path.expanduser(path)) for path in paths if path
    ):
        _ = job.frozen  # a table that is none is refused at once
    return job


def check_inputs(job: Job) -> Images | None:
    """The data; refuses, before anything starts, what a stage would be refused for.

    None if all stages are done, and nothing is needed.

    Raises:
        UserError: If the workdir can be none, data or teacher are missing, or a later
            stage could not run, see `rehearsal.check`.
    """
    data = _inputs(job)
    rehearsal.check(job, data)
    return data


def _inputs(job: Job) -> Images | None:
    """The data, with the teacher beside it.

    Raises:
        ConfigError: If the workdir can be none.
        DataError: If the data is missing; says too whether the teacher is.
        CheckpointError: If only the teacher is missing.
    """
    students.check(job)
    results.check(job)
    if all(map(job.is_done, job.stages)):
        return None
    place.check(job.workdir)
    teacher = _missing_teacher(job)
    try:
        data = build.load_images(job.recipe)
        _ = job.table
        if not job.lacks:
            _ = job.frozen
        if job.recipe.latents and not job.lacks:
            build.load_latents(job.recipe)
    except DataError as error:
        raise DataError(f"{error}{'; also ' + teacher if teacher else ''}") from error
    if teacher:
        raise CheckpointError(teacher)
    return data


def missing(job: Job) -> str:
    """What a run would lack, a line for each thing; "" if all is there.

    Behind each stands how to get it, where the config says so.

    Raises:
        UserError: As `check_inputs`, but for what is missing.
    """
    data, lacks = None, []
    try:
        data = _inputs(job)
    except (DataError, CheckpointError, NotGiven):
        teacher, hints = _missing_teacher(job), job.recipe.hints
        lacks = [teacher] if teacher else []
        for key, read in build.readers(job.recipe).items():
            try:
                found = read()
                data = found if key == "path" else data
            except (DataError, CheckpointError, NotGiven) as error:
                lacks.append(f"{error}{hints.get(key, '')}")
    options = compared.options_of(job)
    if options.features and (weights := compared.missing(options)):
        lacks.append(f"evaluate.features={options.features!r}: {weights}")
        job.said.add(compared.line_of(options, weights))  # which is the same
    rehearsal.check(job, data)
    return "\n".join(lacks)


def _missing_teacher(job: Job) -> str:
    """One line about a teacher that has to be brought and is not there, or ""."""
    if not job.recipe.is_brought:
        return ""
    source, hint = job.recipe.teacher, job.recipe.teacher_hint
    if not source:
        return f"teacher: init.teacher is empty; set --config.init.teacher=PATH{hint}"
    if before.is_absent(source):
        return f"teacher: init.teacher={source!r} does not exist{hint}"
    # In the Hub's cache the name is that of a folder above: models--google--NAME.
    if any(part.endswith(RAW) for part in pathlib.Path(source).absolute().parts):
        log.warning(
            "init.teacher=%s: very likely the raw weights, and papers' figures are of"
            " moving averages; google has those in ddpm-ema-*",
            source,
        )
    return ""
