"""A training stage: any method, from its inputs to a model folder."""

import json
import logging
import time
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import build, interop, models, rng
from kdiff_jax.build import Stage
from kdiff_jax.data import batches as data_batches
from kdiff_jax.errors import CheckpointError
from kdiff_jax.files import write_atomically
from kdiff_jax.stages import Job, finish, pairs
from kdiff_jax.stages.best import Best
from kdiff_jax.stages.hooks import Log, SampleGrids, Saver
from kdiff_jax.train import loop, parallel
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.step import init_state

logger = logging.getLogger(__name__)


def run(job: Job, stage: Stage) -> None:
    """Trains, or resumes, and leaves `model/` in the stage's folder.

    For the section `train` see `build.TRAIN`.

    Raises:
        Interrupted: If a signal asked to stop; everything is saved.
        NumericsError: If a loss or gradient is not finite; the last checkpoint is good.
    """
    folder = job.folder(stage.name)
    train = build.train_options(job.config, stage)
    nets, process, spec, given, teacher = networks(job, stage)
    method, optim, programs = build.program(
        stage,
        train,
        nets,
        process,
        _specs(spec, teacher),
        config=job.config,
        mesh=job.mesh,
    )
    _check_given(stage, method, given)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"spec": spec, "role": "student", "result": _stored(train["result"])}
    _check_revision(folder / interop.STAGE)
    write_atomically(folder / interop.STAGE, json.dumps(about, indent=1))

    source = _source(job, stage)
    frozen = {role: given[role] for role in method.frozen if role in given}
    frozen |= method.brings
    frozen, batches = feed(job, stage, source, frozen, train["batch_size"])
    frozen = parallel.replicate(frozen, job.mesh)
    settings = {
        "num_train_steps": jnp.int32(train["num_steps"]),
        **method.settings,
        **{k: jnp.int32(v) for k, v in stage.config.get("settings", {}).items()},
    }
    # Every stage draws for itself: rounds that share all draws would see few of them.
    seed = stage_seed(job, stage)
    root_key = parallel.replicate(jax.random.key(seed), job.mesh)

    def start(given, key):
        return init_state(method, optim, given, key)

    (key,) = rng.stream(jax.random.key(seed)[None], "init")
    template = parallel.abstract(jax.eval_shape(start, given, key), job.mesh)
    checkpoints = Checkpoints(folder / "checkpoints", keep=train["keep"])
    found = checkpoints.restore_latest(template)
    if found:
        state, step = found
        logger.info("%s: resumes at step %d", stage.name, step)
    else:
        state, step = parallel.replicate(jax.jit(start)(given, key), job.mesh), 0
    del given

    log = Log(folder, stage.name, train, first_step=step)
    saver = Saver(checkpoints, train["save_minutes"])
    grids = SampleGrids(job, stage, nets, process, spec, teacher, train, log)
    best, hooks = None, []
    if train["result"] == "best":
        # Before the log, which then writes the score with the line of its step.
        best = Best(job, stage, method, folder, log)
        hooks.append(loop.Hook(train["validate_every"], best))
    hooks += [
        loop.Hook(train["log_every"], log),
        loop.Hook(train["sample_every"], grids),
    ]
    # Last, so that what a checkpoint's step has measured is already written.
    hooks += [
        loop.Hook(train["save_every"], saver),
        loop.Hook(train["log_every"], saver.if_late),
    ]
    # A gradient inside a loop is slow on the CPU.
    automatic = 1 if jax.default_backend() == "cpu" else 10
    dispatch = train["steps_per_dispatch"] or automatic
    stream = data_batches.iterate(batches, start_step=step)
    try:
        state = loop.run(
            programs,
            state,
            frozen=frozen,
            settings=parallel.replicate(settings, job.mesh),
            batches=stream,
            root_key=root_key,
            num_steps=train["num_steps"],
            hooks=hooks,
            save=saver.now,
            steps_per_dispatch=dispatch,
        )
    finally:
        stream.close()
        log.close()
        checkpoints.close()
    params = best.params() if best else getattr(state.nets["student"], train["result"])
    params = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), params)
    if jax.process_index() == 0:
        facts = {
            "train_steps": train["num_steps"],
            "train_images": train["num_steps"] * train["batch_size"],
            "train_seconds": log.seconds,
            "method": stage.config["method"]["name"],
        }
        card = _card(job, stage, facts)
        interop.save(folder / "model", params=params, spec=spec, card=card)
        finish(folder, **facts)


def _check_revision(begun) -> None:
    """What was begun must still mean the same: refuses an older network's stage."""
    if begun.is_file():
        try:
            spec = json.loads(begun.read_text())["spec"]
        except (json.JSONDecodeError, KeyError):
            return  # damaged; it is written anew
        interop.build(spec)


def stage_seed(job: Job, stage: Stage) -> int:
    """31 bits from the config's seed and the stage's name."""
    return zlib.crc32(f"{job.config.get('seed', 0)}/{stage.name}".encode()) >> 1


def networks(job: Job, stage: Stage):
    """(nets, process, spec of the student, given params by role, teacher or None)."""
    origin = {role: s for role, s in stage.init.items() if s and s != "random"}
    given = {role: p for role, s in origin.items() if (p := job.role(s)) is not None}
    loaded = {role: job.model(s) for role, s in origin.items() if role not in given}
    teacher = loaded.get("teacher")
    for role, model in loaded.items():
        build.check_fits(job.config, role, model.spec)
    base = dict(teacher.spec) if teacher else dict(job.config["model"])
    for key in ("sha256", "kdiff_jax", "source"):
        base.pop(key, None)
    base["revision"] = models.REVISIONS[base["network"]["name"]]
    spec = changed(base, stage.config.get("model", {}))
    spec["sampler"] = stage.config.get("sampler") or spec["sampler"]
    student, process = interop.build(spec)
    nets = {"student": student}
    if teacher:
        nets["teacher"] = teacher.net
    given |= {role: model.params for role, model in loaded.items()}
    return nets, process, spec, given, teacher


def _check_given(stage: Stage, method, given) -> None:
    """Refuses weights of another network, of a stage with other options.

    Raises:
        CheckpointError: Names the role.
    """
    for role in method.nets.keys() & given.keys():
        expected = jax.eval_shape(method.nets[role].init, jax.random.key(0))
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (given[role], expected)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"init.{role}={stage.init[role]!r}: is of another network than the"
                f" {role} of stage {stage.name!r}; make their options equal, or leave"
                f" init.{role} out"
            )


def changed(spec, changes):
    """A spec with other values; a section that names nothing changes fields of its own.

    {"network": {"dropout": 0.0}} keeps the network and takes its dropout away.
    """
    spec = dict(spec)
    for key, value in changes.items():
        fields = isinstance(value, Mapping) and "name" not in value
        spec[key] = {**spec[key], **value} if fields else value
    return spec


def feed(job: Job, stage: Stage, source, frozen, batch_size):
    """(frozen, batches): small sets go to the device whole, and indices follow."""
    batches = data_batches.Batches(
        source,
        seed=stage_seed(job, stage),
        batch_size=batch_size,
        num_hosts=jax.process_count(),
        host=jax.process_index(),
    )
    if getattr(source, "in_memory", None) is None:
        return frozen, batches
    data = {"x0": source.in_memory, "y": source.labels}
    return {**frozen, "data": data}, _Indices(batches)


class _Indices:
    """Sends the places of the examples instead of the examples."""

    def __init__(self, batches):
        self._batches = batches

    def __getitem__(self, step):
        return {"index": self._batches.indices(step)}

    def __len__(self):
        return len(self._batches)


def _source(job, stage):
    if "pairs" in stage.config:
        return pairs.source(job, stage.config["pairs"])
    return build.load_images(job.config)


def _specs(spec, teacher):
    """What of the networks a compiled program depends on."""
    parts = ("network", "precondition", "process", "image_shape", "num_classes")
    return [
        {k: s[k] for k in parts} for s in [spec] + ([teacher.spec] if teacher else [])
    ]


def _stored(result):
    """Where a checkpoint in progress keeps the result."""
    return "params" if result == "params" else "ema"


def _card(job, stage, facts):
    date = time.strftime("%Y-%m-%d")
    return (
        f"# {job.config['name']}: {stage.name}\n\n"
        f"Trained {date} with kdiff_jax, method `{facts['method']}`,"
        f" {facts['train_steps']} steps.\n\n"
        f"```json\n{json.dumps(stage.config, indent=1)}\n```\n"
    )
