"""What the spec of a model describes, and whether leaves are those of its network."""

import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kdiff_jax import denoiser, networks, samplers
from kdiff_jax.diffusion import process as processes
from kdiff_jax.diffusion.process import Process
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import spec_check
from kdiff_jax.interop.trees import flatten
from kdiff_jax.method import Net
from kdiff_jax.partition import Partition

log = logging.getLogger(__name__)


def build(spec: Mapping[str, Any], precision: str | None = None) -> tuple[Net, Process]:
    """The network (as pure functions) and the process that a spec describes.

    Args:
        spec: {"network": {"name", ...}, "precondition": {"name", ...}, "process":
            {"name", ...}, "image_shape": [H, W, C], "num_classes": int,
            "cond_dim": int, "augment_dim": int, "space": name}. "revision" is that of
            the network's definition. With "partition" it is one student of many.
        precision: Type that the network computes in, "float32" or "bfloat16"; None for
            that of the spec, which is float32 unless it has a `network.dtype`.

    Raises:
        CheckpointError: If the network has been defined otherwise since.
    """
    channels = spec["image_shape"][-1]
    num_classes, augment_dim = spec["num_classes"], spec.get("augment_dim", 0)
    network, precondition = spec["network"], dict(spec["precondition"])
    cond_dim = spec.get("cond_dim", 0)
    check_revision(spec)
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in network.items()
    }
    if precision:
        fields["dtype"] = precision
    module = networks.make(
        **fields,
        out_channels=channels * (2 if precondition["name"] in ("both", "iddpm") else 1),
        num_classes=num_classes,
        cond_dim=cond_dim,
        augment_dim=augment_dim,
    )
    process = processes.make(**spec["process"])
    name = precondition.pop("name")
    net = denoiser.make(
        module,
        process,
        precondition=name,
        image_shape=tuple(spec["image_shape"]),
        num_classes=num_classes,
        cond_dim=cond_dim,
        augment_dim=augment_dim,
        space=spec.get("space", "pixels"),
        **precondition,
    )
    return net, process


def without_precision(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec that leaves it to its reader what the network computes in."""
    network = dict(spec["network"])
    if "dtype" in network:
        network["dtype"] = "float32"
    return {**spec, "network": network}


def defining(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a spec that defines the function of its parameters."""
    names = ("network", "precondition", "process", "image_shape", "num_classes")
    return {
        name: spec[name] for name in (*names, "augment_dim", "space") if name in spec
    }


def check_revision(spec: Mapping[str, Any]) -> None:
    """Raises CheckpointError if the network has been defined otherwise since."""
    name = spec["network"]["name"]
    now = networks.revision(name)
    if spec.get("revision", now) != now:
        raise CheckpointError(
            f"network {name} is of revision {repr(spec['revision'])[:40]}, and here it"
            f" is {now}, another function of the same parameters; use the version of"
            " kdiff_jax that its config.json names"
        )


def built(
    spec: Mapping[str, Any], leaves: Mapping[str, Any], where
) -> tuple[Net, Process]:
    """The network and process of a spec, if these leaves are the network's.

    Raises:
        CheckpointError: If the spec is none, or names the first leaves that differ.
    """
    try:
        # The sampler may be one that a person asks for: see `check_sampler`.
        spec_check.check({k: v for k, v in spec.items() if k != "sampler"})
        # A network has more leaves than blocks: a spec of millions is not built.
        for part in ("num_blocks", "channel_mult", "widths"):
            value = spec["network"].get(part) or 0
            if (value if isinstance(value, int) else len(value)) > len(leaves):
                raise ValueError(f"{part}={value!r}, and {len(leaves)} leaves")
        net, process = build(spec)
        partition = Partition.from_spec(spec.get("partition"))
        params = jax.eval_shape(net.init, jax.random.key(0))
        expected = {k: v.shape for k, v in flatten(params).items()}
    except CheckpointError:
        raise
    except Exception as error:  # whatever a spec of nonsense sets off
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{where} has a spec that is no model: {why}") from error
    if spec.get("partition") is not None:
        _check_partition(partition, process, spec["num_classes"], where)
        expected = {k: (partition.num_students, *v) for k, v in expected.items()}
    _compare(leaves, expected, where)
    return net, process


def check_sampler(spec: Mapping[str, Any], process: Process, where) -> None:
    """Builds the sampler of a spec, if it has one, to see that it can be.

    Raises:
        CheckpointError: If it cannot.
    """
    try:
        spec_check.check(spec)
        if "sampler" in spec:
            samplers.make(process=process, **spec["sampler"])
    except Exception as error:  # as above
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{where} has a spec that is no model: {why}") from error


def sampler_of(
    spec: Mapping[str, Any], process: Process, keywords: Mapping[str, Any] | None = None
) -> samplers.Sampler:
    """The sampler of a model, or one of these keywords, its name among them.

    Raises:
        ConfigError: If there is no such sampler, or it asks for guidance by labels of a
            model that has none.
    """
    chosen: dict[str, Any] = dict(spec["sampler"] if keywords is None else keywords)
    check_guidance(spec, chosen.get("guidance", 1))
    return samplers.make(process=process, **chosen)


def check_guidance(spec: Mapping[str, Any], scale: Any) -> None:
    """Refuses guidance of a model without labels; warns of one that always had them.

    Raises:
        ConfigError: If the model has no labels.
    """
    if scale == 1:
        return
    if not spec["num_classes"]:
        raise ConfigError(
            f"guidance={scale}: this model has no labels to be guided by; leave it out"
        )
    if not spec.get("null_prob"):
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


def _compare(
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
