"""Images from a model, in batches, over all devices.

Image number i of a seed starts from the same noise on any number of devices, whichever
student makes it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kdiff_jax import domain, memory, rng
from kdiff_jax.errors import ConfigError, Interrupted, NumericsError
from kdiff_jax.interop.asked import group_of_vectors
from kdiff_jax.method import Net
from kdiff_jax.partition import ONE, Partition
from kdiff_jax.samplers import Ranges, Sampler
from kdiff_jax.train import parallel, signals, watchdog

MAX_IMAGES = 2**31  # numbers of images are int32 on the device


def noise(seed, positions, image_shape, purpose: str):
    """(z, keys) of the images numbered `positions`: z f32[B, H, W, C], keys Key[B].

    Images of another purpose, such as pairs to train on, never share their noise.
    """
    root = jax.random.key(seed)
    keys = rng.stream(rng.example_keys(root, 0, positions), purpose)
    return rng.normal(keys, "z", tuple(image_shape)), keys


def denoiser(net: Net, params, partition: Partition = ONE):
    """What samplers ask: a denoiser, or `Ranges` of such.

    Args:
        net: The network.
        params: Parameters of one student; with ranges of time of all of a group,
            leaves [num_ranges, ...].
        partition: The students; one who owns all by default.
    """

    def at(i):
        owner = params if i is None else jax.tree.map(lambda x: x[i], params)
        return lambda x_t, t, y, **told: _seen(net.apply(owner, x_t, t, y, **told))

    if partition.num_ranges == 1:
        return at(None)
    return Ranges(at, partition.range_of)


class Made(NamedTuple):
    """A batch of images, as host arrays.

    Attributes:
        places: i64[B], whose images they are: places in the labels that were asked for.
        z: f32[B, H, W, C], the noise that they start from.
        x0: [B, H, W, C], what the generator's `leave` gives: uint8 pixels by default.
    """

    places: np.ndarray
    z: np.ndarray
    x0: np.ndarray


@dataclasses.dataclass(frozen=True)
class Generator:
    """Makes the images of a network, or of the students of a partition.

    Images are grouped by the owner of their label, and each group is made in full
    batches with the weights of its students alone, by one program for all groups. Of
    students that own ranges of time a program has the weights of all ranges.

    Attributes:
        net: The network; with a partition, that of one student.
        sampler: Sampler that makes the images.
        mesh: The devices; a batch is split over all of them.
        partition: The students; one who owns all by default. Parameters have a leading
            axis of all students.
        purpose: See `noise`.
        frozen: Arrays that the network's space and conditions read, by role.
        leave: Function of x0, run on the devices as the end of the program; None for
            the way to pixels of the network's space.
        name: Name of the model in messages.
        batch_option: Option that says how many images are made at once, for messages.
    """

    net: Net
    sampler: Sampler
    mesh: Mesh
    partition: Partition = ONE
    purpose: str = "sample"
    frozen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    leave: Callable[[Any], Any] | None = None
    name: str = "model"
    batch_option: str = "--batch_size"

    @functools.cached_property
    def program(self) -> Callable[..., tuple]:
        """(params, frozen, seed, positions, y) -> (z, pixels, bad), on the devices.

        `params` is what `of_group` returns, `frozen` is `placed`, the seed a uint32[];
        B must be a multiple of the devices. `bad` is the first place in the batch whose
        image is not finite, or -1: an i32[] that every host has without asking the
        others.
        """
        split = NamedSharding(self.mesh, P(self.mesh.axis_names))
        everywhere = NamedSharding(self.mesh, P())

        @jax.jit
        def generate(params, frozen, seed, positions, y):
            positions = jax.lax.with_sharding_constraint(positions, split)
            z, keys = noise(seed, positions, self.net.image_shape, self.purpose)
            x0 = self.sampled(params, frozen, z, keys, y)
            finite = jnp.isfinite(x0).all(axis=(1, 2, 3))
            bad = jnp.where(finite.all(), -1, jnp.argmin(finite))
            bad = jax.lax.with_sharding_constraint(bad, everywhere)
            if self.leave is not None:
                return z, self.leave(x0), bad
            return z, self.net.space.to_pixels(frozen, x0), bad

        return generate

    def sampled(self, params, frozen, z, keys, y):
        """x0 of images that start from z; the part of `program` that samples."""
        y = self.net.conditions.take(frozen, y)
        denoise = denoiser(self.net, params, self.partition)
        return self.sampler.sample(denoise, z, y, keys=keys)

    @functools.cached_property
    def placed(self) -> Mapping[str, Any]:
        """`frozen` on all devices."""
        return parallel.replicate(dict(self.frozen), self.mesh)

    def of_group(self, params, group: int = 0):
        """The parameters of a group's student on all devices.

        With ranges of time, those of all of its students, leaves [num_ranges, ...].
        """
        num = self.partition.num_ranges
        first = group * num
        if all(_is_on(x, self.mesh) for x in jax.tree.leaves(params)):
            return self._taken(params, first)
        hosts = jax.tree.map(lambda x: np.asarray(x)[first : first + num], params)
        if num == 1:
            hosts = jax.tree.map(lambda x: x[0], hosts)
        return parallel.replicate(hosts, self.mesh)

    @functools.cached_property
    def _taken(self):
        """(params, first) -> as `of_group`, of a state that is split over the mesh."""
        num = self.partition.num_ranges

        def take(params, first):
            if num == 1:
                return jax.tree.map(lambda x: x[first], params)
            return jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, first, num), params
            )

        return jax.jit(take, out_shardings=NamedSharding(self.mesh, P()))

    def batches(
        self,
        params,
        *,
        seed: int,
        labels: Any,
        batch_size: int,
        first: int = 0,
        frozen: Mapping[str, Any] = {},
    ) -> Iterator[Made]:
        """Images first .. first + len(labels) - 1, group by group; in order of one.

        Args:
            params: Parameters of all students, leaves [num_students, ...].
            seed: Seed of the noise.
            labels: i32[N], the label of each image; or the vectors f32[N, D] that a
                model of such is asked for, which its table need not have, a
                `domain.Prompt`, or token ids i32[N, L] of texts.
            batch_size: Rounded up to a multiple of the devices; the last batch of a
                group is padded, so that one program serves all.
            first: The number of the first image.
            frozen: Arrays on the devices in the place of the generator's own, by role,
                such as a text encoder that is being trained.

        Raises:
            ConfigError: If there is no such seed, no such number of an image, or too
                little memory; or a vector has no owner among these students.
            Interrupted: If a signal asked to stop.
            NumericsError: If an image, or an evaluation before it, is not finite.
        """
        root = rng.checked_seed(seed)
        num = len(jax.tree.leaves(labels)[0])
        if first + num > MAX_IMAGES:
            raise ConfigError(
                f"num_images={num}: image numbers end at {MAX_IMAGES - 1}; ask"
                " for fewer, and for more with another seed"
            )
        size = -(-batch_size // self.mesh.size) * self.mesh.size
        labels, groups = self.owned(labels)
        placed = {**self.placed, **frozen}
        for group in np.unique(groups).tolist():
            owned, mine = np.flatnonzero(groups == group), self.of_group(params, group)
            for start in range(0, len(owned), size):
                if signals.asked():
                    raise Interrupted(
                        "stopped while sampling; run the same command again"
                    )
                places = owned[start : start + size]
                padded = np.resize(places, size)
                positions = (first + padded).astype(np.int32)
                with watchdog.program("the sampler"), self.within_memory(size):
                    z, x0, bad = self.program(
                        mine, placed, root, positions, _rows(labels, padded)
                    )
                    bad = int(np.asarray(bad))
                watchdog.beat()
                self._check(bad, positions, group)
                num = len(places)
                yield Made(places, _to_host(z)[:num], _to_host(x0)[:num])

    def owned(self, labels) -> tuple[Any, np.ndarray]:
        """(what images are asked for as programs take it, i32[N] their groups)."""
        if isinstance(labels, domain.Prompt):
            return labels, group_of_vectors(labels.cond, self.partition, self.frozen)
        labels = np.asarray(labels)
        if labels.ndim == 2 and np.issubdtype(labels.dtype, np.integer):
            ids = labels.astype(np.int32)
            return ids, self._groups_of_texts(ids)
        if labels.ndim == 1:
            labels = labels.astype(np.int32)
            return labels, np.asarray(self.partition.group_of(labels))
        vectors = labels.astype(np.float32)
        return vectors, group_of_vectors(vectors, self.partition, self.frozen)

    def _groups_of_texts(self, ids: np.ndarray) -> np.ndarray:
        """i32[N], groups of texts by their token ids."""
        reader = self.net.reader
        if not self.partition.groups or reader is None:
            return np.zeros(len(ids), np.int32)
        read = jax.jit(lambda frozen, rows: reader.read(frozen, rows).mean(axis=1))
        size = min(256, len(ids))
        vectors = [
            np.asarray(read(self.frozen, np.resize(part, (size, ids.shape[1]))))
            for part in np.split(ids, range(size, len(ids), size))
        ]
        found = np.concatenate(vectors)[: len(ids)]
        return group_of_vectors(found, self.partition, self.frozen)

    def within_memory(self, size: int):
        """Context in which too little memory for `size` images names the option."""
        way_out = f"lower it, {self.name} makes so many images at once"
        if size <= self.mesh.size:
            way_out = f"one image of {self.name} does not fit: take a larger device"
        return memory.speaking(f"{self.batch_option}={size}", way_out)

    def _check(self, bad: int, positions: np.ndarray, group: int) -> None:
        """Raises NumericsError if there is a bad place."""
        if bad < 0:
            return
        many = self.partition.num_groups > 1
        raise NumericsError(
            f"{self.name}{f', students of group {group}' if many else ''}: image"
            f" {positions[bad]} is NaN or infinite (sampler {self.sampler.name},"
            f" {self.sampler.nfe} evaluations); take an earlier step, another model or"
            " another sampler"
        )

    def images(self, params, *, labels: Any, **keywords) -> np.ndarray:
        """All images of `batches` as uint8[N, H, W, C], in the order of the labels."""
        num = len(jax.tree.leaves(labels)[0])
        found = np.empty((num, *self.net.space.pixel_shape), np.uint8)
        for made in self.batches(params, labels=labels, **keywords):
            found[made.places] = made.x0
        return found


def _rows(labels: Any, places: np.ndarray) -> Any:
    """Labels, vectors or prompts at these places."""
    return jax.tree.map(lambda x: x[places], labels)


def of_model(model: Any, sampler: Sampler, *, mesh: Mesh, **keywords) -> Generator:
    """The generator of an `interop.Model`; it takes the model's `students`.

    Args:
        model: The model.
        sampler: Sampler that makes the images.
        mesh: The devices.
        **keywords: purpose, leave, name and batch_option of `Generator`.
    """
    of_it: dict[str, Any] = dict(partition=model.partition, frozen=model.frozen)
    return Generator(model.net, sampler, mesh, **of_it, **keywords)


def cycled_labels(num: int, num_classes: int, first: int = 0) -> np.ndarray:
    """Image i gets label i mod num_classes; zeros without classes."""
    return (np.arange(first, first + num) % max(num_classes, 1)).astype(np.int32)


def shown_labels(num: int, num_classes: int, partition: Partition = ONE) -> np.ndarray:
    """i32[num] for a picture: `cycled_labels`, or of each group of students in turn.

    So that no student is missing where there are more classes than images.
    """
    labels = cycled_labels(num, num_classes)
    if partition.num_groups == 1:
        return labels
    groups = partition.groups
    owned = (groups[i % len(groups)] for i in range(num))
    chosen = [own[i // len(groups) % len(own)] for i, own in enumerate(owned)]
    return np.array(chosen, np.int32)


def _seen(x0_hat):
    """The same, with NaN for infinity: a sampler that clips would hide it."""
    return jnp.where(jnp.isfinite(x0_hat), x0_hat, jnp.nan)


def _is_on(x, mesh: Mesh) -> bool:
    """Whether an array lies on all devices of a mesh, split or not."""
    sharding = getattr(x, "sharding", None)
    return isinstance(sharding, NamedSharding) and sharding.mesh == mesh


def _to_host(x) -> np.ndarray:
    if x.is_fully_addressable:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
