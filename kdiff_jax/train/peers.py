"""The other processes of a run: joined at its start, and missed when one is gone.

JAX's own answer to a process that is gone is to abort the others, without a word of
ours. So every process tells the others that it lives, over JAX's coordination service,
and who is aborted or sees a collective fail looks who has stopped telling.
"""

import ctypes
import os
import signal
import socket
import threading
import time
from typing import Any

import jax
from jax._src import distributed

from kdiff_jax import ending
from kdiff_jax.errors import ConfigError, Interrupted, PeerError

# KDIFF_COORDINATOR=host:port with these two, for clusters that JAX does not know.
NAMES = ("KDIFF_COORDINATOR", "KDIFF_NUM_PROCESSES", "KDIFF_PROCESS_ID")
HEARTBEAT = 20  # seconds without a sign of life after which JAX aborts the others
BEAT = 1.0  # seconds between two signs of life of ours
SILENT = 6.0  # without one; alone no proof, as a library may hold a process up
GRACE = 2.0  # for the others to say themselves what one of them has said

_beats: dict[int, tuple[str, float]] = {}  # process -> (its last sign, since when)
_looked = [0.0]  # when the signs were last read
_left = threading.Event()
_handlers: list = []  # C keeps no reference


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
    _catch_aborts()
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=HEARTBEAT)
    except (ValueError, RuntimeError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"--distributed: the processes of the run did not find each other ({text});"
            f" set {', '.join(NAMES)}, or --distributed=off"
        ) from error
    if (num := distributed.global_state.num_processes) > 1:
        _beats.update({k: ("", time.monotonic()) for k in range(num)})
        ending.before(_tell)
        threading.Thread(target=_watch, name="peers", daemon=True).start()


def client() -> Any:
    """JAX's coordination service as this process sees it."""
    return distributed.global_state.client


def missing() -> PeerError | None:
    """To be asked when a collective has failed: who is gone, waited for if need be."""
    if not _beats or _left.is_set():
        return None
    deadline = time.monotonic() + SILENT + 3 * BEAT
    while time.monotonic() < deadline:
        if (gone := _gone()) is not None:
            return PeerError(_line(gone))
        time.sleep(BEAT / 2)
    return None


def leave(exit_code: int) -> None:
    """Ends this process of a run with a mistake, without waiting for the others."""
    if _beats and exit_code not in (0, Interrupted.exit_code):
        ending.now(exit_code)
    _left.set()


def _watch() -> None:
    """Tells the others that this process lives, and hears which of them end."""
    own, ended = distributed.global_state.process_id, None
    while not _left.wait(BEAT):
        try:
            service = client()
            now = time.monotonic()
            service.key_value_set(f"kdiff/beat/{own}", str(now), allow_overwrite=True)
            for key, sign in service.key_value_dir_get("kdiff/beat/"):
                k = int(key.rpartition("/")[2])
                if _beats[k][0] != sign:
                    _beats[k] = (sign, now)
            _looked[0] = now
            ended = service.key_value_dir_get("kdiff/ended/")
        except (RuntimeError, AttributeError):
            continue  # the coordinator is gone, of which JAX speaks next
        if ended:
            break
    if ended and not _left.wait(GRACE):
        key, code = ended[0]
        k, stopped = key.rpartition("/")[2], int(code) == Interrupted.exit_code
        ending.at_once(
            f"process {k} of this run has ended with code {code}, and says why;"
            " run the same command again",
            Interrupted.exit_code if stopped else PeerError.exit_code,
        )


def _tell(exit_code: int) -> None:
    """Says to the others that this process ends, and lets them hear it."""
    _left.set()
    state = distributed.global_state
    key = f"kdiff/ended/{state.process_id}"
    client().key_value_set(key, str(exit_code), allow_overwrite=True)
    if state.process_id != 0 or exit_code == PeerError.exit_code:
        return
    # With the first process the service goes.
    deadline = time.monotonic() + GRACE + 2 * BEAT + 1
    while time.monotonic() < deadline:
        if len(client().key_value_dir_get("kdiff/ended/")) >= state.num_processes:
            break
        time.sleep(0.1)


def _gone() -> int | None:
    """The process that has shown no sign of life for long, if there is one."""
    state = distributed.global_state
    if state.process_id != 0 and not _answers(state.coordinator_address):
        return 0
    late = {k: _looked[0] - since for k, (_, since) in _beats.items()}
    late.pop(state.process_id, None)
    worst = max(late, key=late.__getitem__, default=None)
    return worst if worst is not None and late[worst] > SILENT else None


def _answers(address: str | None) -> bool:
    """Whether somebody listens at HOST:PORT."""
    host, _, port = (address or "").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except (OSError, ValueError):
        return False
    return True


def _line(process: int) -> str:
    return (
        f"process {process} of this run is gone; what was saved is intact: run the same"
        " command again"
    )


def _catch_aborts() -> None:
    """Has JAX's abort end with our line and code, where a process is gone.

    Its thread calls C's abort; Python's handlers would wait for the main thread, which
    stands in a collective.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(number):
        gone = _gone()
        if gone is not None:
            address = distributed.global_state.coordinator_address
            line = f"process 0 of this run does not answer at {address}: start it there"
            ending.forget(_tell)  # nobody hears it
            ending.at_once(_line(gone) if _beats else line, PeerError.exit_code)
        libc.signal(number, None)  # an abort for another reason stays one
        os.abort()

    libc = ctypes.CDLL(None)
    _handlers.append(handler)
    libc.signal(int(signal.SIGABRT), handler)


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
