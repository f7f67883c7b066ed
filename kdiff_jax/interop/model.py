"""A model as a folder: `model.safetensors`, `config.json`, `README.md`.

The config is the model's spec, in plain values: from it the network, its
preconditioning and its process are built, so that loading executes no code. Checkpoints
of other projects are read through `foreign`, into the same thing.

Many students of one teacher are one model: the spec has their partition, and all leaves
a leading axis of students.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import __version__, arguments, networks, samplers, sealed
from kdiff_jax.diffusion.process import Process, left
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.files import write_atomically
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import asked, conditions, foreign, training
from kdiff_jax.interop.built import build, built, check_sampler, read, sampler_of
from kdiff_jax.interop.source import Facts, Source
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.trees import flatten, unflatten
from kdiff_jax.method import Net
from kdiff_jax.named import Keywords, Named, frozen
from kdiff_jax.partition import ONE, Partition
from kdiff_jax.samplers import Sampler

log = logging.getLogger(__name__)

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
AGAIN = (
    "copy the folder again; other values come by training or converting it again, not"
    " by hand"
)


@dataclasses.dataclass(frozen=True)
class Model:
    """A denoiser with its parameters, or many that own a part of the task each.

    Attributes:
        net: The pure functions; of many students those of one.
        params: Their parameters, float32; of many students leaves [num_students, ...].
        process: The forward process; its times are the model's own.
        frozen: What its programs read beside the parameters, by role: the table of
            vectors, where it is conditioned on such.
        spec: Network, preconditioning, process, image shape, classes, default sampler,
            and the partition of many students.
    """

    net: Net
    params: Any
    process: Process
    spec: Spec
    frozen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def apply(self, x_t, t, y=None, guidance=None):
        """x0_hat, float32 NHWC in [-1, 1]; of many students by the owner of (t, y).

        Each student that owns one of the images sees all of them: to make images,
        `train.generate` goes group by group.

        Args:
            x_t: f32[B, H, W, C], noised images.
            t: f32[B] or a number, in the model's own time (EDM: sigma; DDPM: index).
            y: i32[B] labels; None, or -1, is no label. Of a model that is conditioned
                on vectors the numbers of its table, or vectors f32[B, D] themselves,
                also such as the table does not have; zeros are no condition.
            guidance: A number or f32[B], the strength of guidance, of a model that
                reads it; None for that of its sampler.

        Raises:
            ConfigError: If labels are not such, or vectors have no owner; or if the
                model reads no guidance, or not this one.
        """
        x_t = jnp.asarray(x_t, jnp.float32)
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (len(x_t),))
        about = self.net.conditions, self.partition, self.frozen
        y, group = asked.of(y, len(x_t), *about)
        told = asked.told(guidance, len(x_t), self.spec)
        # Op by op it takes seconds; it is traced once a shape.
        apply = functools.partial(jax.jit(self.net.apply), **told)
        if self.num_students == 1:
            return apply(self.params, x_t, t, y)
        owner = group * self.partition.num_ranges + self.partition.range_of(t)
        try:
            ids = np.unique(np.asarray(owner)).tolist()
        except jax.errors.TracerArrayConversionError:
            ids = range(self.num_students)  # while tracing there are no values
        x0_hat = jnp.zeros_like(x_t)
        for k in ids:
            own = apply(self._of_student(k), x_t, t, y)
            x0_hat = jnp.where(left(owner == k, own), own, x0_hat)
        return x0_hat

    def computing_in(self, precision: str | None) -> "Model":
        """The same model in "float32" or "bfloat16"; None is that of its spec."""
        net, _ = build(self.spec, precision)
        return dataclasses.replace(self, net=net)

    def student(self, k: int) -> "Model":
        """Student k alone, as if there were no other.

        Raises:
            ConfigError: If there is no such student.
        """
        if self.num_students == 1:
            raise ConfigError(f"student={k}: this model is a single one; leave it out")
        if not 0 <= k < self.num_students:
            raise ConfigError(
                f"student={k}: this model has {self.num_students} students, 0 to"
                f" {self.num_students - 1}"
            )
        spec = self.spec.replace(partition=None)
        if spec.sha256:  # that of the file is no longer that of the weights
            spec = spec.replace(sha256=f"{spec.sha256}/{k}")
        return dataclasses.replace(self, params=self._of_student(k), spec=spec)

    def _of_student(self, k: int):
        return jax.tree.map(lambda x: x[k], self.params)

    def check_alone(self, target: str) -> None:
        """Refuses many students where a file has place for one network.

        Raises:
            CheckpointError: Names the way out.
        """
        if self.num_students > 1:
            raise CheckpointError(
                f"target={target}: holds one network, and this model has"
                f" {self.num_students} students; choose one with --student=0 to"
                f" {self.num_students - 1}, or Model.student(k)"
            )

    def sampler(
        self, name: str | None = None, num_steps: int | None = None, **options
    ) -> Sampler:
        """The model's own sampler, another one, or its own with other keywords.

        Args:
            name: Name of the sampler; None for the model's own.
            num_steps: Number of its steps; None for the model's own.
            **options: Other keywords of the sampler.

        Raises:
            ConfigError: If the model has none of its own and none is named, or a
                keyword is not one of the sampler's.
        """
        own = self.spec.sampler
        if num_steps is not None:
            options["num_steps"] = num_steps
        if own is None and name is None:
            raise ConfigError(
                "sampler=None: this model has none of its own; give --sampler=NAME and"
                " --num_steps=N"
            )
        if name and (own is None or name != own.name):
            own = _another(name, own.keywords if own else {})
        assert own is not None
        arguments.check(
            samplers.make_function(own.name),
            options,
            what=f"sampler {own.name!r}",
            hidden=("process",),
            partial=True,
        )
        spec = self.spec.replace(sampler=own.changed(**options))
        return sampler_of(spec, self.process)

    def group_of_vectors(self, vectors) -> np.ndarray:
        """i32[N], the group of students that answers for each of f32[N, D].

        See `asked.group_of_vectors`.
        """
        return asked.group_of_vectors(vectors, self.partition, self.frozen)

    @property
    def num_params(self) -> int:
        """Numbers that can be trained; buffers, as random frequencies, do not count.

        Of many students those of one.
        """
        sizes = jax.tree.map(lambda x: x.size // self.num_students, self.params)
        trained = networks.trainable(self.params)
        return sum(jax.tree.leaves(jax.tree.map(lambda n, t: n * t, sizes, trained)))

    @property
    def partition(self) -> Partition:
        """Partition of classes and times over the students."""
        return self.spec.partition or ONE

    @property
    def num_students(self) -> int:
        return self.partition.num_students

    @property
    def students(self):
        """The parameters of all students, leaves [num_students, ...], also of one."""
        if self.num_students > 1:
            return self.params
        return jax.tree.map(lambda x: np.asarray(x)[None], self.params)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.spec.image_shape

    @property
    def num_classes(self) -> int:
        return self.spec.num_classes


def _another(name: str, keywords: Keywords) -> Named:
    """A sampler that keeps what it shares with the model's own."""
    shared = ("num_steps", "clip", "guidance", "guidance_interval")
    takes = inspect.signature(samplers.make_function(name)).parameters
    kept = {k: v for k, v in keywords.items() if k in shared and k in takes}
    return Named(name, frozen(kept))


def save(
    folder,
    *,
    params,
    spec: Spec | Mapping[str, Any],
    card: str = "",
    frozen: Mapping[str, Any] = {},
) -> pathlib.Path:
    """Writes a model folder; an interrupted call leaves no half-written model.

    Args:
        folder: Made where it does not exist; a model in it is replaced.
        params: Tree of arrays.
        spec: What the model is, a `Spec` or the plain values of one.
        card: Markdown for people.
        frozen: See `Model`.
    """
    leaves = {k: lazy.of(np.asarray(v)) for k, v in flatten(params).items()}
    return write(folder, leaves=leaves, spec=Spec.of(spec), card=card, frozen=frozen)


def write(
    folder,
    *,
    leaves: Mapping[str, Lazy],
    spec: Spec,
    card: str = "",
    frozen: Mapping[str, Any] = {},
) -> pathlib.Path:
    """As `save`, from {"a/b": leaf}; holds one leaf at a time."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The spec comes last: a folder without it holds no model.
    (folder / CONFIG).unlink(missing_ok=True)
    spec = conditions.write(folder, spec, frozen).replace(
        revision=networks.revision(spec.network.name),
        sha256=tensors.write(folder / WEIGHTS, leaves),
        kdiff_jax=__version__,
    )
    write_atomically(folder / CARD, card)
    sealed.write_json(folder / CONFIG, spec.plain())
    return folder


def load(
    path,
    source: str | None = None,
    facts: Facts | None = None,
    precision: str | None = None,
) -> Model:
    """Reads a model, ours or another project's; what it is shows in its content.

    Ours are a model folder, a stage folder of a workdir, or a step in it. A stage
    folder without a model gives the newest valid step; the log names those that were
    passed over. For others see `foreign.families`; no code of theirs is run.

    Args:
        path: A file or a folder.
        source: One of `foreign.families()`, to be sure of it.
        facts: What the file does not say.
        precision: Type that the network computes in, "float32" or "bfloat16"; None is
            what the file says, which is float32 unless a recipe made it otherwise.

    Raises:
        CheckpointError: If nothing loadable is there, or it is damaged. One line.
    """
    found = _load(located(path), source, facts)
    return found.computing_in(precision) if precision else found


def _load(path: pathlib.Path, source: str | None, facts: Facts | None) -> Model:
    if source is None and is_own(path):
        return _load_own(path)
    model, origin = foreign.read(path, facts, source)
    for line in model.assumed:
        log.warning("%s: %s", path.name, line)
    spec = foreign.spec_of(model, origin, path)
    leaves = checked(spec, model, path)
    spec = spec.replace(sha256=origin.sha256)
    return _model(spec, {k: v.read() for k, v in leaves.items()}, path)


def located(path) -> pathlib.Path:
    """The path of a checkpoint, as it is read.

    Of a folder with nothing but weights the weights; of a file in a model folder of
    ours the folder, as neither is a model alone.

    Raises:
        CheckpointError: If there is nothing.
    """
    path = pathlib.Path(path).expanduser()
    try:
        there = path.exists()
    except OSError as error:  # a name too long, a loop of links
        raise CheckpointError(
            f"checkpoint={str(path)[:200]!r}: {error.strerror}"
        ) from error
    if not there:
        raise CheckpointError(f"checkpoint={str(path)!r} does not exist")
    if path.name in (WEIGHTS, CONFIG) and path.is_file() and is_ours(path.parent):
        return path.parent
    alone = path / WEIGHTS
    return alone if alone.is_file() and not (path / CONFIG).exists() else path


def is_own(path: pathlib.Path) -> bool:
    """Whether `load` reads this as a model of ours, and not as another project's.

    What is ours comes first: the `model` in a stage folder is a part's name elsewhere.
    """
    if not path.is_dir():
        return False
    ours = is_ours(path) or is_ours(path / "model") or training.find(path) is not None
    return ours or not foreign.is_foreign(path)


def is_ours(folder: pathlib.Path) -> bool:
    """Whether this is a model folder of ours."""
    if not ((folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()):
        return False
    try:
        spec = json.loads((folder / CONFIG).read_text())
    except (RecursionError, ValueError):
        return True  # and damaged: loading it says how
    return isinstance(spec, dict) and bool({"network", sealed.KEY} & spec.keys())


def checked(spec: Spec, source: Source, where) -> dict[str, Lazy]:
    """The leaves of a foreign checkpoint, if they are those of its network; float32.

    Raises:
        CheckpointError: Names the first leaves that differ.
    """
    built(spec, source.leaves, where)
    return {name: leaf.astype(np.float32) for name, leaf in source.leaves.items()}


def _load_own(path: pathlib.Path) -> Model:
    for folder in (path, path / "model"):
        if is_ours(folder):
            return _load_folder(folder)
    if (found := training.find(path)) is not None:
        return of_stage(found[0], *training.load(*found))
    raise CheckpointError(
        f"checkpoint={str(path)!r} holds no model; give a stage folder of a workdir, a"
        f" step in its checkpoints/, a folder with {WEIGHTS} and {CONFIG}, or another"
        " project's checkpoint (docs/teachers.md)"
    )


def of_stage(stage: pathlib.Path, spec: Spec, params: Any) -> Model:
    """The model of parameters that come from the steps of a stage folder."""
    model = _own(_model(spec, flatten(params), stage), stage)
    return dataclasses.replace(model, frozen=conditions.read(stage, spec))


def spec_of(folder: pathlib.Path) -> Spec:
    """The spec of a model folder of ours.

    Raises:
        CheckpointError: If it is damaged.
    """
    path = folder / CONFIG
    values = sealed.read_json(path, error=CheckpointError, way_out=AGAIN)
    if not isinstance(values.get("sha256"), str):
        raise CheckpointError(f"{path}: is no model's spec; {AGAIN}")
    return read(values, folder)


def _load_folder(folder: pathlib.Path) -> Model:
    spec = spec_of(folder)
    expected = spec.sha256 or ""  # which `spec_of` has seen
    with open(folder / WEIGHTS, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{folder / WEIGHTS} has sha256 {found[:12]}..., expected"
            f" {expected[:12]}...; it is damaged: copy or train it again"
        )
    leaves, _ = tensors.read(folder / WEIGHTS)
    model = _own(_model(spec, {k: v.read() for k, v in leaves.items()}, folder), folder)
    return dataclasses.replace(model, frozen=conditions.read(folder, spec))


def _own(model: Model, where) -> Model:
    """Returns a model of ours after a check of its sampler, which is its file's."""
    check_sampler(model.spec, model.process, where)
    return model


def _model(spec: Spec, leaves: Mapping[str, Any], where) -> Model:
    """A model of {"a/b": array}, if they are what its spec describes."""
    net, process = built(spec, leaves, where)
    if spec.partition is not None and spec.partition.num_students == 1:
        # Once, one of a partition into one was written with an axis of students.
        leaves = {name: leaf[0] for name, leaf in leaves.items()}
        spec = spec.replace(partition=None)
    # `jnp.asarray` would compile a program for each shape.
    params = unflatten(jax.device_put(dict(leaves), may_alias=False))
    return Model(net, params, process, spec)
