"""Devices that are not there: a pod for which programs can be compiled anywhere.

devices, chip = topology.find("v5e:4x4")
"""

import importlib.util
import os
import re
from typing import Any, NamedTuple

from kdiff_jax.chips import CHIPS, Chip
from kdiff_jax.errors import ConfigError

WAYS = "v5e:4x4, v5p:4x4x4, v6e:8x8, v4:2x2x2, or cpu"
# libtpu asks for a machine that it is on, and writes logs, unless it is told.
QUIET = dict(
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    TPU_LOG_DIR="disabled",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)


class Found(NamedTuple):
    """The devices of a topology.

    Attributes:
        name: Name that was asked for.
        devices: Devices that programs are compiled for.
        chip: What each is; None of a CPU.
    """

    name: str
    devices: list[Any]
    chip: Chip | None


def find(name: str) -> Found:
    """The devices of a topology. To be called before JAX starts.

    Args:
        name: "v5e:4x4" and its like, as libtpu names TPU slices, or "cpu", what is
            here.

    Raises:
        ConfigError: If there is no such topology, or its compiler is not installed.
    """
    if name == "cpu":
        return Found(name, _local(), None)
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+x\d+(x\d+)?", shape):
        raise ConfigError(f"--topology={name}: is none; give {WAYS}")
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology={name}: the compiler of TPUs is not installed; pip install"
            " 'kdiff_jax[plan]'"
        )
    return Found(name, _tpu(name), CHIPS[kind])


def _local() -> list[Any]:
    import jax

    return jax.devices()


def _tpu(name: str) -> list[Any]:
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    # Two cores of a v4 are one device, as on the machine; one chip is no whole host.
    more: dict[str, Any] = {}
    if name.startswith("v4"):
        more["chip_config_name"] = "megacore"
    if set(name.partition(":")[2].split("x")) == {"1"}:
        more["chips_per_host_bounds"] = [1, 1, 1]
    try:
        found = topologies.get_topology_desc(name, platform="tpu", **more)
    except Exception as error:  # of C++, and of no kind of its own
        text = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"--topology={name}: libtpu has none ({text}); give {WAYS}"
        ) from error
    return list(found.devices)
