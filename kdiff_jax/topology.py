"""Devices that are not there: a pod for which programs can be compiled anywhere.

devices, chip = topology.find("v5e:4x4")
"""

import importlib.util
import os
import re
from typing import Any, NamedTuple

from kdiff_jax.chips import CHIPS, Chip
from kdiff_jax.errors import ConfigError

WAYS = "v5e:4x4, v5p:4x4x4, v6e:8x8, v4:2x2x2, h100x8, h200x8, or cpu"
OF_HOST = 8  # GPUs of a host
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
        name: "v5e:4x4" and its like, as libtpu names TPU slices; "h100x8", so many GPUs
            in hosts of eight; or "cpu", what is here.

    Raises:
        ConfigError: If there is no such topology, or its compiler is not installed.
    """
    if name == "cpu":
        return Found(name, _local(), None)
    if gpus := re.fullmatch(r"(h100|h200)x([1-9]\d*)", name):
        return Found(name, _gpus(name, gpus[1], int(gpus[2])), CHIPS[gpus[1]])
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+x\d+(x\d+)?", shape):
        raise ConfigError(f"--topology={name}: is none; give {WAYS}")
    if not _installed("libtpu"):
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


def _gpus(name: str, kind: str, num: int) -> list[Any]:
    hosts = max(num // OF_HOST, 1)
    if num > OF_HOST and num % OF_HOST:
        raise ConfigError(
            f"--topology={name}: hosts have {OF_HOST} GPUs; give a multiple"
        )
    if not _installed("jax_plugins.xla_cuda12"):
        raise ConfigError(
            f"--topology={name}: the compiler of GPUs is not installed; pip install"
            " jax-cuda12-plugin jax-cuda12-pjrt, of JAX's version"
        )
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    found = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=_target(CHIPS[kind]),
        topology=f"1x{hosts}x{num // hosts}",
    )
    return list(found.devices)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package that it is in
        return False


def _target(chip: Chip) -> str:
    """What the compiler is told of an H100 or H200, a `GpuTargetConfigProto`."""
    about = dict(
        threads_per_block_limit=1024,
        threads_per_warp=32,
        threads_per_core_limit=2048,
        shared_memory_per_block=48 * 1024,
        shared_memory_per_block_optin=227 * 1024,
        shared_memory_per_core=228 * 1024,
        registers_per_core_limit=2**16,
        registers_per_block_limit=2**16,
        core_count=132,
        fpus_per_core=128,
        block_dim_limit_x=2**31 - 1,
        block_dim_limit_y=2**16 - 1,
        block_dim_limit_z=2**16 - 1,
        memory_bandwidth=int(chip.bandwidth),
        l2_cache_size=50 * 2**20,
        clock_rate_ghz=1.98,
        device_memory_size=int(chip.memory),
    )
    fields = " ".join(f"{key}: {value}" for key, value in about.items())
    return (
        f"gpu_device_info {{ {fields} cuda_compute_capability {{ major: 9 }}"
        ' runtime_version: "12.8.0" }'
        ' platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 }'
        f' device_description_str: "NVIDIA {chip.name.upper()}"'
    )
