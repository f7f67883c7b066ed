"""A denoiser with its parameters, or many students of one teacher as one model.

Of many students the spec has their partition, and all leaves have a leading axis of
students.
"""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import arguments, networks, samplers
from kdiff_jax.diffusion.process import Process, broadcast_left
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import asked
from kdiff_jax.interop.built import build, built, sampler_of
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.trees import unflatten
from kdiff_jax.method import Net
from kdiff_jax.named import Keywords, Named, frozen
from kdiff_jax.partition import ONE, Partition
from kdiff_jax.samplers import Sampler


@dataclasses.dataclass(frozen=True)
class Model:
    """A denoiser with its parameters, or many that own a part of the task each.

    Attributes:
        net: The pure functions; of many students those of one.
        params: Their parameters, float32; of many students leaves [num_students, ...].
        process: The forward process; its times are the model's own, but for SiT's.
        frozen: What its programs read beside the parameters, by role: the table of
            vectors, where it is conditioned on such.
        spec: Network, preconditioning, process, image shape, classes, default sampler,
            and the partition of many students.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import interop
        >>> values = {
        ...     "network": {"name": "mlp", "channels": 8},
        ...     "precondition": {"name": "v"},
        ...     "process": {"name": "cosine"},
        ...     "sampler": {"name": "ddim", "num_steps": 4},
        ...     "image_shape": (1, 1, 2),
        ...     "num_classes": 4,
        ... }
        >>> net, process = interop.build(values)
        >>> params = net.init(jax.random.key(0))
        >>> model = interop.Model(net, params, process, interop.Spec.of(values))
        >>> z, y = jax.random.normal(jax.random.key(1), (3, 1, 1, 2)), jnp.arange(3)
        >>> model.apply(z, process.t_max, y).shape, model.sampler().nfe
        ((3, 1, 1, 2), 4)
        >>> model.sampler(num_steps=1).sample(model.apply, z, y).shape
        (3, 1, 1, 2)
        >>> model.computing_in("bfloat16").denoise(z, 0.5, y).dtype.name
        'float32'
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
            t: f32[B] or a number, in the model's own time (EDM: sigma; DDPM: index;
                SiT: 1 is the data, so that it is 1 - t of `process`).
            y: i32[B] labels; None, or -1, is no label. Of a model that is conditioned
                on vectors the numbers of its table, or vectors f32[B, D] themselves,
                also such as the table does not have; zeros are no condition. Of one
                that reads texts a text encoder's states f32[B, L, D], or a dict of
                these as `context`, of `text_embeds` f32[B, P] and of `time_ids`
                f32[B, 6] (SDXL); there is no None.
            guidance: A number or f32[B], the strength of guidance, of a model that
                reads it; None for that of its sampler.

        Raises:
            ConfigError: If labels are not such, or vectors have no owner; or if the
                model reads no guidance, or not this one.
        """
        t = jnp.asarray(t, jnp.float32)
        return self.denoise(x_t, 1 - t if self.is_reversed else t, y, guidance)

    @property
    def is_reversed(self) -> bool:
        """Whether its own time is 1 - t of its process, as SiT's is."""
        return bool(self.spec.precondition.keywords.get("data_at"))

    def denoise(self, x_t, t, y=None, guidance=None):
        """As `apply`, but at times of `process`, as samplers ask.

        Args:
            x_t, y, guidance: See `apply`.
            t: f32[B] or a number, a time of `process`.

        Raises:
            ConfigError: As `apply`.
        """
        x_t = jnp.asarray(x_t, jnp.float32)
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (len(x_t),))
        about = self.net.conditions, self.partition, self.frozen
        y, group = asked.of(y, len(x_t), *about)
        strength = asked.guidance_keyword(guidance, len(x_t), self.spec)
        # Op by op it takes seconds; it is traced once a shape.
        apply = functools.partial(jax.jit(self.net.apply), **strength)
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
            x0_hat = jnp.where(broadcast_left(owner == k, own), own, x0_hat)
        return x0_hat

    def computing_in(self, precision: str | None) -> "Model":
        """The same model, computing in another precision.

        Args:
            precision: "float32" or "bfloat16"; None is that of its spec. Parameters and
                x0_hat are float32.
        """
        net, _ = build(self.spec, precision)
        return dataclasses.replace(self, net=net)

    def student(self, k: int) -> "Model":
        """Student k alone, as if there were no other.

        Args:
            k: Number of the student.

        Raises:
            ConfigError: If there is no such student.

        Examples:
            >>> import jax
            >>> from kdiff_jax import partition
            >>> from kdiff_jax import interop
            >>> values = {
            ...     "network": {"name": "mlp", "channels": 8},
            ...     "precondition": {"name": "v"},
            ...     "process": {"name": "cosine"},
            ...     "sampler": {"name": "ddim", "num_steps": 4},
            ...     "image_shape": (1, 1, 2),
            ...     "num_classes": 4,
            ... }
            >>> net, process = interop.build(values)
            >>> halves = partition.make(process=process, num_classes=4, num_groups=2)
            >>> spec = interop.Spec.of({**values, "partition": halves.to_spec()})
            >>> both = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 2))
            >>> model = interop.Model(net, both, process, spec)
            >>> model.num_students, model.student(1).num_students
            (2, 1)
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
        found = sampler_of(spec, self.process)
        return _asking_process(found) if self.is_reversed else found

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
        """Number of students; 1 without a partition."""
        return self.partition.num_students

    @property
    def students(self):
        """The parameters of all students, leaves [num_students, ...], also of one."""
        if self.num_students > 1:
            return self.params
        return jax.tree.map(lambda x: np.asarray(x)[None], self.params)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image, or of its latents."""
        return self.spec.image_shape

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 if unconditional."""
        return self.spec.num_classes


def of_leaves(spec: Spec, leaves: Mapping[str, Any], where) -> Model:
    """A model of {"a/b": array}, if they are what its spec describes."""
    net, process = built(spec, leaves, where)
    if spec.partition is not None and spec.partition.num_students == 1:
        # Once, one of a partition into one was written with an axis of students.
        leaves = {name: leaf[0] for name, leaf in leaves.items()}
        spec = spec.replace(partition=None)
    # `jnp.asarray` would compile a program for each shape.
    params = unflatten(jax.device_put(dict(leaves), may_alias=False))
    return Model(net, params, process, spec)


def _asking_process(sampler: Sampler) -> Sampler:
    """A sampler that takes `Model.apply`, too, of a model of another time than its."""

    def sample(denoise, z, y=None, **keywords):
        model = getattr(denoise, "__self__", None)
        if isinstance(model, Model) and denoise == model.apply:
            denoise = model.denoise
        return sampler.sample(denoise, z, y, **keywords)

    return sampler._replace(sample=sample)


def _another(name: str, keywords: Keywords) -> Named:
    """A sampler that keeps what it shares with the model's own."""
    shared = ("num_steps", "clip", *(k for k in keywords if k.startswith("guidance")))
    takes = inspect.signature(samplers.make_function(name)).parameters
    kept = {k: v for k, v in keywords.items() if k in shared and k in takes}
    return Named(name, frozen(kept))
