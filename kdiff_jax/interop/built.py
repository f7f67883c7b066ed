"""The network that a spec describes, and whether leaves are those of it."""

import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kdiff_jax import denoiser, networks, samplers
from kdiff_jax.diffusion import guidance as guidances
from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.trees import flatten
from kdiff_jax.method import Net
from kdiff_jax.partition import Partition

log = logging.getLogger(__name__)

COUNTS = ("num_blocks", "depths", "up_depths", "mid_depth")  # of blocks


def build(
    spec: Spec | Mapping[str, Any], precision: str | None = None
) -> tuple[Net, Process]:
    """The network (as pure functions) and the process that a spec describes.

    Args:
        spec: A `Spec`, or the plain values of one. With a partition it is one student
            of many.
        precision: Type that the network computes in, "float32" or "bfloat16"; None for
            that of the spec, which is float32 unless its network has a `dtype`.

    Raises:
        CheckpointError: If the network has been defined otherwise since.
        ConfigError: If plain values are those of no model.

    Examples:
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
        >>> net.image_shape, net.num_classes, process.t_max
        ((1, 1, 2), 4, 1.0)
    """
    spec = Spec.of(spec)
    check_revision(spec)
    network, (name, keywords) = spec.network, spec.precondition
    if precision:
        network = network.changed(dtype=precision)
    conditioned: dict[str, Any] = dict(
        num_classes=spec.num_classes,
        cond_dim=spec.cond_dim,
        augment_dim=spec.augment_dim,
    )
    if spec.guidance_range:  # not a field that every network has
        network = network.changed(reads_guidance=True)
    channels = spec.image_shape[-1] * (2 if name in ("both", "iddpm") else 1)
    module = network.call(networks.make, out_channels=channels, **conditioned)
    process = spec.make_process()
    net = denoiser.make(
        module,
        process,
        precondition=name,
        image_shape=spec.image_shape,
        space=spec.make_space(precision),
        guidance_range=spec.guidance_range,
        reader=spec.make_reader(precision),
        **conditioned,
        **keywords,
    )
    return net, process


def check_revision(spec: Spec) -> None:
    """Raises CheckpointError if the network has been defined otherwise since."""
    name = spec.network.name
    now = networks.revision(name)
    if spec.revision not in (None, now):
        raise CheckpointError(
            f"network {name} is of revision {repr(spec.revision)[:40]}, and here it"
            f" is {now}, another function of the same parameters; use the version of"
            " kdiff_jax that its config.json names"
        )


def read(values: Mapping[str, Any], where) -> Spec:
    """The spec that stands in a file.

    Raises:
        CheckpointError: If it is none.
    """
    try:
        return Spec.of(values)
    except CheckpointError:
        raise  # it names the partition
    except ConfigError as error:
        raise _no_model(where, error) from error


def built(spec: Spec, leaves: Mapping[str, Any], where) -> tuple[Net, Process]:
    """The network and process of a spec, if these leaves are the network's.

    Raises:
        CheckpointError: If the spec is none, or names the first leaves that differ.
    """
    try:
        # A network has more leaves than blocks: a spec of millions is not built.
        for part in ("channel_mult", "widths", *COUNTS):
            value = spec.network.keywords.get(part) or ()
            if (_total(value) if part in COUNTS else len(value)) > len(leaves):
                raise ValueError(f"{part}={value!r}, and {len(leaves)} leaves")
        net, process = build(spec)
        params = jax.eval_shape(net.init, jax.random.key(0))
        expected = {k: v.shape for k, v in flatten(params).items()}
    except CheckpointError:
        raise
    except Exception as error:  # whatever a spec of nonsense sets off
        raise _no_model(where, error) from error
    if (partition := spec.partition) is not None:
        _check_partition(partition, process, spec.num_classes, where)
        expected = {k: (partition.num_students, *v) for k, v in expected.items()}
    compare(leaves, expected, where)
    return net, process


def _total(count: int | tuple) -> int:
    """The sum of counts, however nested."""
    return count if isinstance(count, int) else sum(map(_total, count))


def check_sampler(spec: Spec, process: Process, where) -> None:
    """Builds the sampler of a spec, if it has one, to see that it can be.

    Raises:
        CheckpointError: If it cannot.
    """
    try:
        if spec.sampler is not None:
            spec.make_sampler()
    except Exception as error:  # as above
        raise _no_model(where, error) from error


def _no_model(where, error: Exception) -> CheckpointError:
    why = " ".join(str(error).split())[:200]
    return CheckpointError(f"{where} has a spec that is no model: {why}")


def sampler_of(spec: Spec, process: Process) -> samplers.Sampler:
    """The sampler of a model, which there must be.

    Raises:
        ConfigError: If it asks for guidance by labels of a model that has none, or
            the process has no such grid of times; or if the model reads its guidance
            and was not made for this one.
    """
    check_guidance(spec, spec.guidance)
    return spec.make_sampler()


def check_guidance(spec: Spec, scale: float | int) -> None:
    """Refuses guidance of a model without labels; warns of one that always had them.

    Raises:
        ConfigError: If the model has no labels, or reads its guidance and was not made
            for this one.
    """
    if spec.guidance_range:
        return guidances.check_told(scale, spec.guidance_range)
    if scale == 1:
        return
    if spec.cond_length and not spec.num_classes:
        return  # a text brings its own null
    if not spec.num_classes:
        raise ConfigError(
            f"guidance={scale}: this model has no labels to be guided by; leave it out"
        )
    if not spec.null_prob:
        _warn_once(
            f"guidance={scale}: this model does not say that it was trained without"
            " labels as well (method.null_prob), so that its answers without one may"
            " mean nothing"
        )


@functools.cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def _check_partition(
    partition: Partition, process: Process, num_classes: int, where
) -> None:
    """Refuses owners of other classes than the model's, or of another time."""
    owned = sum(map(len, partition.groups))
    if partition.groups and owned != num_classes:
        raise CheckpointError(
            f"{where} has a partition of {owned} classes and a model of {num_classes};"
            " take both from one source"
        )
    ends = (process.t_min, process.t_max)
    borders = partition.borders
    if borders and not np.allclose((borders[0], borders[-1]), ends):
        raise CheckpointError(
            f"{where} has a partition of the times {borders[0]:g} to {borders[-1]:g},"
            f" and its process goes from {ends[0]:g} to {ends[1]:g}; take both from one"
            " source"
        )


def compare(
    given: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], where
) -> None:
    """Names the first leaves whose shape is not the network's."""
    wrong = [
        f"{k} is missing, expected {expected[k]}" for k in expected if k not in given
    ]
    wrong += [
        f"{k} {given[k].shape} is not expected" for k in given if k not in expected
    ]
    wrong += [
        f"{k} is {given[k].shape}, expected {expected[k]}"
        for k in expected.keys() & given.keys()
        if tuple(given[k].shape) != tuple(expected[k])
    ]
    if wrong:
        more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise CheckpointError(
            f"{where} does not fit its network: {'; '.join(sorted(wrong)[:10])}{more}"
        )
