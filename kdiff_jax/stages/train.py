"""A training stage: any method, from its inputs to a model folder."""

import json
import logging
import time

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import build, interop
from kdiff_jax.build import Stage
from kdiff_jax.data import batches as data_batches
from kdiff_jax.errors import ConfigError
from kdiff_jax.report.files import write_atomically
from kdiff_jax.stages import Job, finish, pairs
from kdiff_jax.stages.best import Best
from kdiff_jax.stages.hooks import Log, SampleGrids, Saver
from kdiff_jax.train import loop, parallel
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.step import init_state
from kdiff_jax.train.watchdog import Watchdog

logger = logging.getLogger(__name__)

RESULTS = ("params", "ema", "best")


def run(job: Job, stage: Stage) -> None:
    """Trains, or resumes, and leaves `model/` in the stage's folder.

    Keywords of the section `train`: num_steps, batch_size, result ("params", "ema" or
    "best"), log_every, sample_every, save_every, save_minutes, validate_every,
    num_microbatches, steps_per_dispatch, keep (checkpoints), hang_minutes.

    Raises:
        Interrupted: If a signal asked to stop; everything is saved.
        NumericsError: If a loss or gradient is not finite; the last checkpoint is good.
    """
    folder, train = job.folder(stage.name), options(job, stage)
    nets, process, spec, given, teacher = networks(job, stage)
    method, optim, programs = build.program(
        stage,
        nets,
        process,
        _specs(spec, teacher),
        config=job.config,
        mesh=job.mesh,
    )
    folder.mkdir(parents=True, exist_ok=True)
    about = {"spec": spec, "role": "student", "result": _stored(train["result"])}
    write_atomically(folder / interop.training.STAGE, json.dumps(about, indent=1))

    source = _source(job, stage)
    frozen = {role: given[role] for role in method.frozen}
    frozen, batches = feed(job, stage, source, frozen, train["batch_size"])
    frozen = parallel.replicate(frozen, job.mesh)
    settings = {
        "num_train_steps": jnp.int32(train["num_steps"]),
        **method.settings,
        **{k: jnp.int32(v) for k, v in stage.config.get("settings", {}).items()},
    }
    seed = job.config.get("seed", 0)
    root_key = parallel.replicate(jax.random.key(seed), job.mesh)

    def start(given, key):
        return init_state(method, optim, given, key)

    key = jax.random.fold_in(jax.random.key(seed), _tag("init"))
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
    saver = Saver(checkpoints, train["save_minutes"], template)
    grids = SampleGrids(job, stage, nets, process, spec, teacher, train, log)
    hooks = [
        loop.Hook(train["log_every"], log),
        loop.Hook(train["sample_every"], grids),
    ]
    best = None
    if train["result"] == "best":
        best = Best(job, stage, method, folder, log)
        hooks.append(loop.Hook(train["validate_every"], best))
    # Last, so that what a checkpoint's step has measured is already written.
    hooks += [
        loop.Hook(train["save_every"], saver),
        loop.Hook(train["log_every"], saver.if_late),
    ]
    stream = data_batches.iterate(batches, start_step=step)
    watchdog = Watchdog(stage.name, train["hang_minutes"])
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
            alive=watchdog.beat,
            steps_per_dispatch=train["steps_per_dispatch"],
        )
    finally:
        watchdog.close()
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


def options(job: Job, stage: Stage) -> dict:
    """The section `train` of a stage over that of the whole config, and defaults."""
    accelerator = jax.default_backend() != "cpu"
    train = {
        "result": "params",
        "log_every": 100,
        "sample_every": 1000,
        "save_every": 5000,
        "save_minutes": 10.0,
        "validate_every": 1000,
        "num_microbatches": 1,
        "steps_per_dispatch": 10 if accelerator else 1,
        "keep": 2,
        "hang_minutes": 60.0,
        **job.config.get("train", {}),
        **stage.config.get("train", {}),
    }
    if train["result"] not in RESULTS:
        raise ConfigError(
            f"stages.{stage.name}.train.result={train['result']!r}; choose one of"
            f" {', '.join(RESULTS)}"
        )
    return train


def networks(job: Job, stage: Stage):
    """(nets, process, spec of the student, given params by role, teacher or None)."""
    origin = {role: s for role, s in stage.init.items() if s and s != "random"}
    loaded = {role: job.model(source) for role, source in origin.items()}
    teacher = loaded.get("teacher")
    base = dict(teacher.spec) if teacher else dict(job.config["model"])
    for key in ("sha256", "kdiff_jax"):
        base.pop(key, None)
    spec = {**base, **stage.config.get("model", {})}
    spec["sampler"] = stage.config.get("sampler") or spec["sampler"]
    student, process = interop.build(spec)
    nets = {"student": student}
    if teacher:
        nets["teacher"] = teacher.net
    return nets, process, spec, {r: m.params for r, m in loaded.items()}, teacher


def feed(job: Job, stage: Stage, source, frozen, batch_size):
    """(frozen, batches): small sets go to the device whole, and indices follow."""
    batches = data_batches.Batches(
        source,
        seed=job.config.get("seed", 0),
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


def _tag(name):
    import zlib

    return zlib.crc32(name.encode())


def _card(job, stage, facts):
    date = time.strftime("%Y-%m-%d")
    return (
        f"# {job.config['name']}: {stage.name}\n\n"
        f"Trained {date} with kdiff_jax, method `{facts['method']}`,"
        f" {facts['train_steps']} steps.\n\n"
        f"```json\n{json.dumps(stage.config, indent=1)}\n```\n"
    )
