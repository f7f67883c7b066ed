"""A training stage: any method, from its inputs to a model folder."""

import contextlib
import functools
import json
import logging
import pathlib
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kdiff_jax import build, interop, models, rng
from kdiff_jax.build import Stage
from kdiff_jax.data import batches as data_batches
from kdiff_jax.diffusion.partition import Partition, same_owners
from kdiff_jax.errors import CheckpointError, NumericsError
from kdiff_jax.interop import training
from kdiff_jax.models import channels
from kdiff_jax.stages import Job, apart, finish, pairs, students
from kdiff_jax.stages.best import Best
from kdiff_jax.stages.hooks import Log, SampleGrids, Saver
from kdiff_jax.train import generate, loop, parallel, signals
from kdiff_jax.train.checkpoint import Checkpoints
from kdiff_jax.train.step import init_state

logger = logging.getLogger(__name__)


def run(job: Job, stage: Stage) -> None:
    """Trains, or resumes, and leaves `model/` in the stage's folder.

    For the section `train` see `build.sections.Train`.

    Raises:
        Interrupted: If a signal asked to stop; everything is saved.
        NumericsError: If a loss or gradient is not finite, or far above its usual size.
            What was saved meanwhile is set aside.
    """
    folder = job.folder(stage.name)
    train = build.train_options(job.config, stage)
    if job.only is not None and job.split(stage.name):
        apart.check_before(job, stage)
    nets, process, spec, given, teacher, owners = networks(job, stage)
    many = students.find(job, stage, process, teacher)
    if many and job.only is not None:
        apart.check_alike(job, stage, many.partition)
    method, optim, programs = build.program(
        stage,
        train,
        nets,
        process,
        _specs(spec, teacher),
        config=job.config,
        mesh=many.mesh if many else job.mesh,
        num_students=len(many.ids) if many else None,
        own=("teacher",) if many and owners.get("teacher") else (),
    )
    method = _begin(stage, method)
    given |= _trained_roles(job, stage, method)
    spec["sampler"] = dict(method.sampler) or spec["sampler"]
    mesh, stacked = programs.mesh, many is not None
    if many and len(many.ids) == many.partition.num_students:
        spec["partition"] = many.partition.to_spec()
    roles = {**nets, **method.nets}
    given, own = students.given_to_each(many, stage, given, owners, roles)
    _check_given(stage, method, given, own)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"spec": spec, "role": "student", "result": _stored(train["result"])}
    alone = stacked and "partition" not in spec  # one student, beside other jobs
    if many:
        about |= {"alone": alone, "partition": many.partition.to_spec()}
        for line in many.partition.table().splitlines():
            logger.info("%s: %s", stage.name, line)
    _check_begun(folder, about)
    training.describe(folder, about)

    source = _source(job, stage)
    frozen = {role: given[role] for role in method.frozen if role in given}
    frozen |= method.brings
    settings = {
        "num_train_steps": jnp.int32(train["num_steps"]),
        **method.settings,
        **{k: jnp.int32(v) for k, v in stage.config.get("settings", {}).items()},
    }
    # Every stage draws for itself: rounds that share all draws would see few of them.
    seed = job.seed(stage.name)
    root_key = jax.random.key(seed)
    if many:
        frozen, batches = many.feed(
            job, stage, method, source, frozen, train["batch_size"]
        )
        settings = many.settings(process, settings)
        root_key = many.root_keys(seed)
    else:
        frozen, batches = feed(job, stage, source, frozen, train["batch_size"])
    first = _first_state(method, optim)
    if many:
        shapes, begin = many.first_states(first, given, own, root_key)
    else:
        shapes = jax.eval_shape(first, given, root_key)
        begin = functools.partial(jax.jit(first), given, root_key)
    frozen = {
        role: parallel.replicate(tree, mesh, stacked=role in own)
        for role, tree in frozen.items()
    }
    settings = parallel.replicate(settings, mesh, stacked=stacked)
    template = parallel.abstract(shapes, mesh, stacked=stacked)
    root_key = parallel.replicate(root_key, mesh, stacked=stacked)
    checkpoints = Checkpoints(
        folder / "checkpoints", keep=train["keep"], stacked=stacked
    )
    found = checkpoints.restore_latest(template)
    parts = apart.parts(job, stage, many) if many else []
    if parts and (not found or found[1] < train["num_steps"]):
        found = apart.join(parts, template, train["num_steps"])
        checkpoints.save(train["num_steps"], found[0])
        apart.join_logs(parts, folder)
        logger.info("%s: joined %d students", stage.name, len(parts))
    if found:
        state, step = found
        logger.info("%s: resumes at step %d", stage.name, step)
    else:
        state, step = parallel.replicate(begin(), mesh, stacked=stacked), 0
    del given, begin

    ids = many.ids if many else None
    log = Log(folder, stage.name, train, first_step=step, students=ids)
    saver = Saver(checkpoints, train["save_minutes"], log.watch)
    # One student alone answers for all classes and times, as long as it trains.
    owners = (Partition() if alone else many.partition) if many else None
    shown = generate.shown_labels(SampleGrids.NUM, spec["num_classes"], owners)
    if many and alone:  # but is seen at what it learns
        shown = many.partition.labels(many.ids[0], spec["num_classes"])
    grids = SampleGrids(
        job, stage, nets, process, spec, teacher, train, log, mesh, owners, shown
    )
    best, hooks = None, []
    if train["result"] == "best":
        # Before the log, which then writes the score with the line of its step.
        given = dict(first_step=step, frozen=frozen, settings=settings)
        best = Best(job, stage, method, folder, log, **given)
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
        if step < train["num_steps"]:
            grids.begin()
        with _going_back(saver, job.section(stage.name)):
            state = loop.run(
                programs,
                state,
                frozen=frozen,
                settings=settings,
                batches=stream,
                root_key=root_key,
                num_steps=train["num_steps"],
                hooks=hooks,
                save=saver.now,
                observe=log.observe,
                steps_per_dispatch=dispatch,
            )
    finally:
        stream.close()
        log.close()
        checkpoints.close()
    signals.release()
    student = state.nets["student"]
    params = best.params(student.ema) if best else getattr(student, train["result"])
    params = parallel.to_host(params)
    if alone:
        params = jax.tree.map(lambda x: x[0], params)
    num_students = len(many.ids) if many else 1
    if jax.process_index() == 0:
        facts = {
            "train_steps": train["num_steps"],
            "train_images": train["num_steps"] * train["batch_size"] * num_students,
            "train_seconds": log.seconds,
            "method": stage.config["method"]["name"],
        }
        if many:
            facts["num_students"] = num_students
        card = _card(job, stage, facts, many)
        interop.save(folder / "model", params=params, spec=spec, card=card)
        finish(folder, **facts)


@contextlib.contextmanager
def _going_back(saver: Saver, section: str):
    """Sets aside what a student that diverges in this block has saved."""
    try:
        yield
    except NumericsError as error:
        raise NumericsError(
            f"{error}; {saver.go_back()}. Lower {section}.optim.lr or set .clip_norm,"
            " with --force_config_change or in another workdir"
        ) from error


def _check_begun(folder: pathlib.Path, about) -> None:
    """What was begun must still mean the same.

    Raises:
        CheckpointError: If the network is defined otherwise, or the partition is
            another.
    """
    begun = folder / interop.STAGE
    if not begun.is_file():
        return
    try:
        before = training.description(folder)
    except CheckpointError as error:
        logger.error("%s", error)
        return  # it is written anew
    interop.check_revision(before["spec"])
    if not same_owners(before.get("partition"), about.get("partition")):
        raise CheckpointError(
            f"{begun}: was begun with another partition of the classes or times; take"
            " another --workdir"
        )


def _first_state(method, optim):
    """(given, root key) -> the state of a run that begins."""

    def make(given, root_key):
        (key,) = rng.stream(root_key[None], "init")
        return init_state(method, optim, given, key)

    return make


def networks(job: Job, stage: Stage):
    """(nets, process, spec of the student, params by role, teacher, partitions).

    The teacher is None without one; the partitions are those of given models, by role.
    """
    origin = {role: s for role, s in stage.init.items() if s and s != "random"}
    # What else the method has is not known yet, see `_trained_roles`.
    raw = {role for role, s in origin.items() if job.names_role(s)}
    given = {role: job.role(origin[role]) for role in raw & {"student", "teacher"}}
    loaded = {role: job.model(s) for role, s in origin.items() if role not in raw}
    teacher = loaded.get("teacher")
    for role, model in loaded.items():
        build.check_fits(job.config, role, model.spec)
    base = dict(teacher.spec) if teacher else dict(job.config["model"])
    for key in ("sha256", "kdiff_jax", "source", "partition"):
        base.pop(key, None)
    base["revision"] = models.REVISIONS[base["network"]["name"]]
    spec = changed(base, stage.config.get("model", {}))
    spec["sampler"] = stage.config.get("sampler") or spec["sampler"]
    student, process = interop.build(spec)
    nets = {"student": student}
    if teacher:
        nets["teacher"] = teacher.net
    given |= {role: model.params for role, model in loaded.items()}
    owners = {role: model.partition for role, model in loaded.items()}
    if (rule := stage.config.get("channels")) and "student" in given:
        # Of a wider network, those that this one has.
        template = jax.eval_shape(student.init, jax.random.key(0))
        given["student"] = channels.select(given["student"], template, rule)
    return nets, process, spec, given, teacher, owners


def _begin(stage: Stage, method):
    """The method whose roles begin as the stage says: those of "random" are no copy."""
    copies = {
        role: source
        for role, source in method.init_from.items()
        if stage.init.get(role) != "random"
    }
    return method._replace(init_from=copies)


def _trained_roles(job: Job, stage: Stage, method) -> dict[str, dict]:
    """Params of the roles, beside the student, that begin as another stage's.

    A recipe may name one that this method has with other options only, such as
    adapters of features.
    """
    found = {}
    for role, source in stage.init.items():
        if role in ("student", "teacher") or not job.names_role(source):
            continue
        if role in method.nets:
            try:
                found[role] = job.role(source)
            except CheckpointError as error:
                raise CheckpointError(
                    f"init.{role}={source!r}: {error}; or set init.{role}='random'"
                ) from error
        else:
            name = stage.config["method"]["name"]
            logger.warning(
                "%s: init.%s is not used, method %r with these options has no such"
                " role; it has: %s",
                *(stage.name, role, name, ", ".join(method.nets)),
            )
    return found


def _check_given(stage: Stage, method, given, own) -> None:
    """Refuses weights of another network, of a stage with other options.

    Those of the roles `own` have an axis of students.

    Raises:
        CheckpointError: Names the role.
    """
    for role, net in method.nets.items():
        source = role if role in given else method.init_from.get(role)
        if source not in given:
            continue
        params = given[source]
        expected = jax.eval_shape(net.init, jax.random.key(0))
        one = jax.tree.map(lambda x: x[0], params) if source in own else params
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (one, expected)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"init.{role}={stage.init.get(role, source)!r}: is of another network"
                f" than the {role} of stage {stage.name!r}; make their options equal,"
                f" or set init.{role} to a stage that made one, or to 'random'"
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
        seed=job.seed(stage.name),
        batch_size=batch_size,
        num_hosts=jax.process_count(),
        host=jax.process_index(),
    )
    if (data := data_batches.on_device(source)) is None:
        return frozen, batches
    return {**frozen, "data": data}, data_batches.Indices(batches)


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


def _card(job, stage, facts, many):
    date = time.strftime("%Y-%m-%d")
    table = many.partition.table().splitlines() if many else []
    if many and len(many.ids) < len(table):
        table = [f"One of {len(table)}, trained alone:", *(table[k] for k in many.ids)]
    owns = "".join(f"* {line}\n" for line in table) + "\n" * bool(table)
    return (
        f"# {job.config['name']}: {stage.name}\n\n"
        f"Trained {date} with kdiff_jax, method `{facts['method']}`,"
        f" {facts['train_steps']} steps.\n\n{owns}"
        f"```json\n{json.dumps(stage.config, indent=1)}\n```\n"
    )
