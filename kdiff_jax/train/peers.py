"""The other processes of a run."""

import os

import jax

from kdiff_jax.errors import ConfigError

# KDIFF_COORDINATOR=host:port with these two, for clusters that JAX does not know.
NAMES = ("KDIFF_COORDINATOR", "KDIFF_NUM_PROCESSES", "KDIFF_PROCESS_ID")
HEARTBEAT = 20  # seconds without a sign of life, after which a process is gone


def join(*, must: bool = False) -> None:
    """Joins the other hosts of a TPU pod, a SLURM job or KDIFF_COORDINATOR.

    Args:
        must: Whether to look for them even where nothing says that there are some.

    Raises:
        ConfigError: If the environment does not say who they are.
    """
    given = _given()
    pod = len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
    if not (given or pod or _number("SLURM_STEP_NUM_TASKS", "1") > 1 or must):
        return
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=HEARTBEAT)
    except (ValueError, RuntimeError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"--distributed: the processes of the run did not find each other ({text});"
            f" set {', '.join(NAMES)}, or --distributed=off"
        ) from error


def _given() -> tuple:
    """(address, number of processes, which this is) as KDIFF_* says; () if unset."""
    given = {k: os.environ[k] for k in NAMES if k in os.environ}
    if not given:
        return ()
    if len(given) < 3:
        missing = ", ".join(name for name in NAMES if name not in given)
        raise ConfigError(f"{missing}: not set, though {', '.join(given)} is")
    address = given[NAMES[0]]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) >= 2**16:
        raise ConfigError(f"{NAMES[0]}={address}: must be HOST:PORT of process 0")
    num, own = (_number(name) for name in NAMES[1:])
    if num < 1:
        raise ConfigError(f"{NAMES[1]}={num}: must be 1 or more")
    if not 0 <= own < num:
        raise ConfigError(f"{NAMES[2]}={own}: must be in 0..{num - 1}")
    return address, num, own


def _number(name: str, default: str | None = None) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text or "")
    except ValueError:
        raise ConfigError(f"{name}={text}: must be a whole number") from None
