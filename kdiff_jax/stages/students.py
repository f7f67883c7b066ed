"""The students of a training stage: who they are, and what each is fed."""

import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kdiff_jax import arrays, build, methods
from kdiff_jax import partition as partitions
from kdiff_jax.build import Learning, TrainStage
from kdiff_jax.build.sections import Partition as Section
from kdiff_jax.data import batches as data_batches
from kdiff_jax.data.students import StudentBatches
from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import CheckpointError, ConfigError, DataError
from kdiff_jax.files import Unreadable
from kdiff_jax.interop import Model
from kdiff_jax.method import Method, Numbers
from kdiff_jax.networks.labels import class_rows
from kdiff_jax.partition import ONE, Partition
from kdiff_jax.stages import Job, idle
from kdiff_jax.train import parallel, watchdog
from kdiff_jax.train.layout import Layout

logger = logging.getLogger(__name__)


class Students(NamedTuple):
    """The students that a run trains; without a partition, one who owns all.

    Attributes:
        partition: All students of the stage.
        ids: The numbers of those of this run: all, or the one that `partition.only`
            names.
        mesh: The devices, in groups that each train their own.
    """

    partition: Partition
    ids: tuple[int, ...]
    mesh: Mesh

    @property
    def num_rounds(self) -> int:
        return len(self.ids) // self.mesh.shape["student"]

    @property
    def is_part(self) -> bool:
        """Whether others are trained in jobs of their own."""
        return len(self.ids) < self.partition.num_students

    @property
    def owners(self) -> Partition:
        """The owners among the students of this run: one alone answers for all."""
        return ONE if len(self.ids) == 1 else self.partition

    def numbers(self, process: Process, method: Method, common: Numbers) -> Numbers:
        """Numbers of each student, on a leading axis of students.

        Args:
            process: The forward process, whose times are split.
            method: Method that trains the students.
            common: Numbers that all students have, with the share of one who owns all.

        Raises:
            ConfigError: If a range is not of whole steps, and the method has some.
        """
        partition, ids = self.partition, self.ids
        found = jax.tree.map(
            lambda x: np.broadcast_to(x, (len(ids), *np.shape(x))), common
        )
        share = found.share
        if partition.borders:
            ranges = [partition.t_range(k, process) for k in ids]
            share = share._replace(t_range=np.array(ranges, np.float32))
        if partition.groups:
            num = len(common.share.conditions)
            owned = [partition.labels(k, num) for k in ids]
            share = share._replace(conditions=np.stack(owned))
        steps = found.round_steps
        if "t_range" in method.draws and steps is not None:
            ends = share.t_range * np.reshape(steps, (-1, 1))
            if np.abs(ends - np.round(ends)).max() > 1e-3:
                raise ConfigError(
                    f"partition.num_ranges={partition.num_ranges}: the ranges are not"
                    " of whole steps, with settings.num_steps="
                    f"{common.round_steps}; take a divisor of it, and"
                    " spacing='even'"
                )
        return found._replace(share=share)

    def root_keys(self, seed: int):
        """Key[n], the root of each student's random numbers."""
        root = jax.random.key(seed)
        if self.partition.num_students == 1:
            return root[None]
        return jax.vmap(lambda k: jax.random.fold_in(root, k))(jnp.array(self.ids))

    def first_states(self, first, given, own, root_keys, layout: Layout):
        """(their shapes, () -> the states that they begin with, stacked on the host).

        One after the other: a device never holds those of all.

        Args:
            first: (given, root key) -> the state of one.
            given: Params by role.
            own: The roles of them that have an axis of students.
            root_keys: Key[n].
            layout: How a state lies on the devices; in parts, it is made in parts.
        """

        def of(i):
            mine = {role: jax.tree.map(lambda x: x[i], given[role]) for role in own}
            return {**given, **mine}, root_keys[i]

        def stacked(x):
            return jax.ShapeDtypeStruct((len(self.ids), *x.shape[1:]), x.dtype)

        def begin():
            alone = parallel.make_mesh(list(self.mesh.devices.flat))
            places = layout.on(alone).shardings(shapes, alone)
            in_parts = {"out_shardings": places} if layout.num_parts > 1 else {}
            made = jax.jit(first, **in_parts)
            with watchdog.program("the initial state"):
                states = [parallel.to_host(made(*of(i))) for i in range(len(self.ids))]
            return jax.tree.map(lambda *x: np.concatenate(x), *states)

        shapes = jax.eval_shape(first, *of(0))
        return jax.tree.map(stacked, shapes), begin

    def feed(self, job: Job, stage: Learning, method, source, batch_size):
        """(data on the device by role, batches): small sets go to the device whole.

        Examples are those of the student's classes. Exception: every student sees all
        pairs to regress on, beside a loss on labels of its own, unless `filter_data`
        says otherwise. Trained on a part of them, students over-fit and lose modes
        (Song et al. 2024, arXiv:2410.23274).
        """
        groups, num_hosts, host = parallel.part_of_host(self.mesh)
        own = stage.filter_data
        if own is None:
            own = not stage.pairs or "conditions" not in method.draws
        own = own and self.partition.num_groups > 1
        several, rounds = self.partition.num_students > 1, self.num_rounds
        num_classes = job.recipe.num_classes
        here = [self.ids[g * rounds + r] for g in groups for r in range(rounds)]
        batches: list[Any] = [
            data_batches.Batches(
                source,
                seed=job.seed(stage.name, student=k if several else None),
                batch_size=batch_size,
                num_hosts=num_hosts,
                host=host,
                labels=self.partition.labels(k, num_classes).tolist() if own else None,
            )
            for k in here
        ]
        if (data := data_batches.on_device(source)) is None:
            return {}, StudentBatches(batches, num_rounds=rounds)
        batches = [data_batches.Indices(one) for one in batches]
        return {"data": data}, StudentBatches(batches, num_rounds=rounds)


def find(job: Job, stage: TrainStage, process, teacher) -> Students:
    """The students of a training stage; one without a partition.

    Raises:
        ConfigError: If the partition is none, or there is no such student.
    """
    if not stage.partition:
        return Students(ONE, (0,), job.mesh)

    def whole_teacher():
        # That of a round is the round before, a network for each student; the rows are
        # those of the network that the first of them had.
        inits = {s.name: s.init for s in job.stages}
        source = stage.init.teacher or ""
        if not job.split(source):
            return teacher
        while job.split(source):
            source = inits[source].teacher or ""
        return job.model(source, stage.precision)

    partition = partition_of(job, process, whole_teacher)
    num, ids = partition.num_students, tuple(range(partition.num_students))
    if job.only is not None:
        if job.only not in ids:
            raise ConfigError(
                f"partition.only={job.only}: there are {num} students, 0 to {num - 1}"
            )
        ids = (job.only,)
    return Students(partition, ids, parallel.student_mesh(job.mesh, len(ids)))


def partition_of(
    job: Job, process, find_teacher: Callable[[], Model | None]
) -> Partition:
    """What the config's section `partition` says; the teacher is found if needed.

    Raises:
        ConfigError: If it is none.
    """
    section = section_of(job)
    path, own = section.embeddings, ("only", "embeddings")
    options = {k: v for k, v in section._asdict().items() if k not in own}
    num_classes = job.recipe.num_classes
    rows = vectors = None
    if section.rule in ("kmeans", "pca") and section.num_groups > 1:
        vectors = job.recipe.conditions.vectors(job.frozen)
        by_table = vectors is not None and not path
        rows = vectors if by_table else _embeddings(path, find_teacher, num_classes)
    found = partitions.make(
        process=process, num_classes=num_classes, embeddings=rows, **options
    )
    # Groups of other rows than the conditions say nothing of other conditions.
    return found if vectors is None or rows is vectors else found._replace(splits=None)


def section_of(job: Job) -> Section:
    """The section `partition`, of a recipe with a stage that has one; see `check`."""
    section = job.recipe.partition
    assert section is not None
    return section


def check(job: Job) -> None:
    """Refuses a partition before anything runs, as far as it needs no teacher.

    Raises:
        ConfigError: If it is none.
    """
    section = job.recipe.partition
    split = [s for s in job.stages if s.kind == "train" and s.partition]
    if not split:
        return
    if section is None:
        raise ConfigError(
            f"stages.{split[0].name}.partition=True: there is no section `partition`"
            " that says of what; add one"
        )
    if section.num_ranges > 1:
        for stage in split:
            name = stage.method.name
            if not methods.takes_times(name):
                raise ConfigError(
                    f"partition.num_ranges={section.num_ranges}: the method {name!r}"
                    f" of stage {stage.name!r} trains at one time alone (its file does"
                    " not say TAKES_TIMES); split the classes, by partition.num_groups"
                )
    process = job.recipe.spec.make_process()
    by_rows = section.rule in ("kmeans", "pca") and section.num_groups > 1
    if by_rows and not section.embeddings and not _has_vectors(job):
        num_classes = job.recipe.num_classes
        groups, rule, table = section.num_groups, section.rule, section.table
        partitions.check_groups(num_classes, groups, rule, table)
        found = partitions.make(
            process=process,
            num_classes=num_classes,
            num_ranges=section.num_ranges,
            spacing=section.spacing,
        )
    else:
        found = partition_of(job, process, lambda: None)
    if found.num_ranges > 1:
        _warn_of_idle(job, found, process)


def _has_vectors(job: Job) -> bool:
    """Whether there are vectors to split by; who reads them says what is missing."""
    try:
        asked = job.recipe.conditions
        return bool(asked.dim) and {*asked.shapes} <= {*job.frozen}
    except (CheckpointError, DataError):
        return False


def _warn_of_idle(job: Job, partition: Partition, process) -> None:
    for stage in job.stages:
        # Those of rounds take the steps of their round, and have whole ones.
        if stage.kind == "train" and stage.partition and not stage.settings:
            sampler = build.spec_of(stage, job.recipe.spec).make_sampler()
            if line := idle.line(sampler, partition):
                logger.warning("%s: %s", stage.name, line)


def _embeddings(path: str, find_teacher, num_classes: int) -> np.ndarray:
    """Rows of the classes: of a .npy file, or of the teacher's own table."""
    if not path:
        if (teacher := find_teacher()) is None:
            raise ConfigError(
                "partition.embeddings='': the rows of the classes are the teacher's,"
                " and there is none; give a .npy file of [classes, D]"
            )
        if teacher.num_students > 1:
            raise ConfigError(
                f"partition.embeddings='': the teacher is {teacher.num_students}"
                " students, who differ in the rows of the classes; give a .npy file of"
                " [classes, D]"
            )
        return class_rows(teacher.params, num_classes)
    try:
        rows = arrays.load_one(os.path.expanduser(path))
    except (OSError, Unreadable) as error:
        raise ConfigError(
            f"partition.embeddings={path!r}: no .npy file of [classes, D]: {error}"
        ) from error
    if rows.dtype.kind not in "fiu" or not np.isfinite(rows).all():
        raise ConfigError(
            f"partition.embeddings={path!r}: holds {rows.dtype}{list(rows.shape)}; give"
            " a .npy file of [classes, D], finite numbers"
        )
    return rows
