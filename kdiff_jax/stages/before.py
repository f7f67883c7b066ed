"""What can be said of a job before anything runs: whether its parts fit together."""

import functools
import os

import jax

from kdiff_jax import build, interop, registry
from kdiff_jax.build import Stage, TrainStage
from kdiff_jax.errors import ConfigError, UserError
from kdiff_jax.interop import Spec
from kdiff_jax.metrics import features
from kdiff_jax.report import trackers
from kdiff_jax.stages import Job, autoencoder, evaluate, is_done
from kdiff_jax.train import parallel


def check(job: Job) -> None:
    """Refuses stages that name what is not there, and batches that do not split.

    Raises:
        ConfigError: Names the value.
    """
    trained: list[str] = []
    _check_made(job)
    for stage in job.stages:
        path = f"--config.stages.{stage.name}"
        if not is_done(job.left(stage.name)):
            name = getattr(getattr(stage, "train", None), "tracker", "")
            trackers.check(f"{path}.train.tracker", name)
        _check_init(job, stage, trained, path)
        if stage.kind == "train":
            mesh = parallel.student_mesh(job.mesh, num_students(job, stage))
            size, micro = stage.train.batch_size, stage.train.num_microbatches
            try:
                parallel.check_batch_size(size, mesh, micro)
            except ConfigError as error:
                raise ConfigError(f"{path}.train.{error}") from error
            _check_pairs(job, stage, path)
            if not is_done(job.left(stage.name)):
                build.check_shared(job.recipe, stage)
                _check_network(origin(job, stage), "--config.model.network")
                _check_network(spec(job, stage), f"{path}.model.network")
            trained.append(stage.name)
        elif stage.kind == "autoencoder":
            autoencoder.check(job, stage, path)
        elif stage.kind == "evaluate":
            evaluate.listed(job, stage.models)
            name, num = stage.options.features, stage.options.num_images
            if name and name not in features.names():
                known = (*features.names(), "")
                raise registry.unknown("--config.evaluate.features", name, known)
            if name and num < 2:
                raise ConfigError(
                    f"--config.evaluate.num_images={num}: a distance"
                    " needs 2 or more; set features='' for pictures alone"
                )


def origin(job: Job, stage: Stage) -> Spec:
    """The spec of a stage's teacher; one that is brought is what the config says."""
    source = stage.init.teacher
    for other in job.stages:
        if other.kind == "train" and other.name == source:
            return spec(job, other)
    return job.recipe.spec


def spec(job: Job, stage: TrainStage) -> Spec:
    """The spec of a stage's student."""
    return build.spec_of(stage, origin(job, stage))


def spec_of_model(job: Job, name: str) -> Spec:
    """The spec of a model as `evaluate.models` lists it: "teacher@4" has 4 steps."""
    source, _, steps = name.partition("@")
    made = {s.name: s for s in job.stages if s.kind == "train"}
    found = spec(job, made[source]) if source in made else job.recipe.spec
    return found.changed({"sampler": {"num_steps": int(steps)}} if steps else {})


def num_students(job: Job, stage: TrainStage) -> int:
    """How many students a run of the stage trains."""
    partition = job.recipe.partition
    if not stage.partition or partition is None or job.only is not None:
        return 1
    return partition.num_groups * partition.num_ranges


def _check_init(job: Job, stage: Stage, trained: list[str], path: str) -> None:
    """What a stage begins with is of a stage before it, or lies at a path."""
    stages = {s.name for s in job.stages}
    for role, source in stage.init.sources.items():
        name = source.partition("/")[0] if job.names_role(source) else source
        if name in trained or name not in stages or source == "random":
            continue
        raise ConfigError(
            f"{path}.init.{role}={source!r}: is no training stage before"
            f" {stage.name!r}; those are {', '.join(trained) or 'none'}"
        )


def _check_made(job: Job) -> None:
    """What stages make for others comes first, and is what the model names."""
    stages = {s.name: s for s in job.stages}
    for kind, name in job.recipe.made.items():
        before = [*stages][: [*stages].index(name)]
        # An autoencoder is what latents are made with, and teachers are trained on.
        free = () if kind == "autoencoder" else ("latents",)
        free += ("autoencoder",)
        if early := [other for other in before if stages[other].kind not in free]:
            raise ConfigError(
                f"order: {early[0]!r} stands before {name!r}, which data.{kind} names;"
                " put it behind"
            )
        stage = stages[name]
        if stage.kind == "autoencoder" and job.recipe.spec.autoencoder:
            module = autoencoder.plan(job, stage).module
            build.check_autoencoder(job.recipe, module, 1.0, 0.0)
    for stage in job.stages:
        if stage.kind == "latents" and job.recipe.encoded_by != stage.name:
            raise ConfigError(
                f"--config.data.latents={job.recipe.latents!r}: does not name the stage"
                f" {stage.name!r}, so that nobody reads what it makes; set it, or leave"
                " the stage out of order"
            )


def _check_pairs(job: Job, stage: TrainStage, path: str) -> None:
    name = stage.pairs
    made = [s.name for s in job.stages if s.kind == "pairs"]
    if name and name not in made:
        raise ConfigError(
            f"{path}.pairs={name!r}: is no stage of pairs; the config has"
            f" {', '.join(made) or 'none'}"
        )


def _check_network(spec: Spec, path: str) -> None:
    why = _why_no_network(spec.defining())
    if why:
        raise ConfigError(f"{path}: these fields make no network: {why}")


def is_absent(source: str) -> bool:
    """Whether a model that is to be brought is not there, or not yet named."""
    return not source or not os.path.exists(os.path.expanduser(source))


@functools.lru_cache
def _why_no_network(spec: Spec) -> str:
    """What building the network and the shapes of its parameters ends with, or ""."""
    try:
        net, _ = interop.build(spec)
        jax.eval_shape(net.init, jax.random.key(0))
    except UserError as error:
        return str(error)
    except Exception as error:  # whatever fields of nonsense set off
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""
