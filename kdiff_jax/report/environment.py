"""What a figure was measured with: machine, devices and versions."""

import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def hardware() -> dict[str, Any]:
    """Devices of all hosts, and the cores of this host that the process may use."""
    devices, num_cpus = jax.devices(), cores()
    return {
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "num_hosts": jax.process_count(),
        "num_cpus": int(num_cpus) if num_cpus.is_integer() else num_cpus,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def cores() -> float:
    """Cores that this process may use: a container may have a part of the host's."""
    found: float = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        found = len(os.sched_getaffinity(0))
    limit = pathlib.Path("/sys/fs/cgroup/cpu.max")
    quota, period = (limit.read_text().split() if limit.is_file() else ("max", "1"))[:2]
    return float(min(found, int(quota) / int(period)) if quota.isdigit() else found)


def measured() -> dict[str, Any]:
    """What a row says of where and when it was measured."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    commit = _git_commit()
    about = {} if commit is None else {"git_commit": commit}
    return {"time": now, **hardware(), **about}


def versions() -> dict[str, str]:
    """Versions of the package, its git commit, Python, and the libraries below it."""
    found = {"python": platform.python_version()}
    for name in ("kdiff_jax", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # run from a checkout, or a library not installed
    commit = _git_commit()
    return found if commit is None else {**found, "git_commit": commit}


@functools.cache  # once: every row asks
def _git_commit():
    """The checkout's commit, marked when files differ from it; None outside git."""
    root = pathlib.Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None  # an installed package inside somebody else's repository
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-changed" if changed else commit


def _git(root, *arguments):
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
