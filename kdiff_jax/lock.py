"""One run at a time writes in a folder: a file there says which one.

The file has the owner's machine, process and when that began, and the owner touches it
every few seconds. So an owner that was killed is told from one that lives: on this
machine at once, since the system knows its processes; on another by what it touches.
"""

import json
import os
import pathlib
import platform
import threading
import time
from typing import Any

from kdiff_jax import ending
from kdiff_jax.errors import ConfigError

BEAT = 10.0  # seconds between two touches
GONE = 120.0  # without one, after which the owner counts as gone; caches of NFS hold 60


class Lock:
    """The right to write in a folder, until `release` or the end of the process.

    Args:
        path: The file; its folder is made.
        what: That is locked, for messages.

    Raises:
        ConfigError: If another run that lives has it.
        OSError: If the file cannot be written.
    """

    def __init__(self, path: pathlib.Path, what: str):
        self.path, self._what = path, what
        self._text = json.dumps(_myself())
        self._released = threading.Event()
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _create(path, self._text):
            _wait_until_gone(path, what)
        ending.before(self.release)
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def release(self, exit_code: int = 0) -> None:
        """Gives it back; to be called once."""
        del exit_code
        ending.forget(self.release)
        self._released.set()
        if _read(self.path) == self._text:
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        found = None
        while not self._released.wait(BEAT):
            try:
                found = _read(self.path)
                if found is None:  # deleted by hand
                    _create(self.path, self._text)
                elif found != self._text:
                    break
                os.utime(self.path)
            except OSError:
                continue  # full or away for now; who writes there will notice
        if not self._released.is_set():
            ending.at_once(
                f"{self._what}: {_name(found)} has taken it over, since this run did"
                " not answer for long; it writes nothing more",
                ConfigError.exit_code,
            )


def _create(path: pathlib.Path, text: str) -> bool:
    """Whether the file was made; False if it is there."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, text.encode())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return True


def _read(path: pathlib.Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _wait_until_gone(path: pathlib.Path, what: str) -> None:
    """Returns when the owner is gone, and its file with it.

    Raises:
        ConfigError: As soon as the owner is known to live.
    """
    text = _read(path)
    began, touched = time.monotonic(), _touched(path)
    while text is not None and _read(path) == text:
        lives = _lives(text)
        if lives or _touched(path) != touched:
            raise ConfigError(
                f"{what}: {_name(text)} works in it; wait for it or stop it, or take"
                f" another --workdir (if it is surely gone: delete {path})"
            )
        idle = max(time.monotonic() - began, _age(path))
        if lives is False or idle > GONE:
            _set_aside(path, text)
            return
        if time.monotonic() - began < 1:
            ending.say(
                f"{what}: waiting for up to {GONE:.0f} s to see whether {_name(text)}"
                " still works in it"
            )
        time.sleep(1)


def _set_aside(path: pathlib.Path, text: str) -> None:
    """Deletes the file, unless another run was faster and it is that one's by now."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) != text and not path.exists():
        aside.rename(path)
    aside.unlink(missing_ok=True)


def _touched(path: pathlib.Path) -> float:
    """When it was last touched, by the clock of the storage; 0 if it is gone."""
    try:
        with open(path) as file:  # which makes NFS ask its server
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0


def _age(path: pathlib.Path) -> float:
    """Seconds since it was touched, by the clock that a file made now has."""
    probe = path.with_name(f"{path.name}.{os.getpid()}.now")
    probe.touch()
    now = _touched(probe)
    probe.unlink(missing_ok=True)
    return now - _touched(path)


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": platform.node(), "pid": pid, "began": _began(pid), **_machine()}


def _machine() -> dict[str, str]:
    """What tells this machine, since it started, and this container from others."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "pids": os.readlink("/proc/self/ns/pid")}
    except OSError:  # not Linux
        return {"boot": "", "pids": ""}


def _began(pid: int) -> str:
    """When a process began, in ticks since the machine did; "" if there is none."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def _lives(text: str) -> bool | None:
    """Whether the owner lives; None if that cannot be known from here."""
    try:
        owner = json.loads(text)
        if {key: owner[key] for key in ("boot", "pids")} != _machine():
            return None
        if owner["boot"]:
            return _began(owner["pid"]) == owner["began"]
        here = owner["host"] == platform.node()
        return False if here and not _is(owner["pid"]) else None
    except (ValueError, KeyError, TypeError):
        return None  # half written, or damaged


def _is(pid: int) -> bool:
    """Whether there is a process of this number, perhaps another by now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _name(text: str | None) -> str:
    try:
        owner = json.loads(text or "")
        return f"process {owner['pid']} on host {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another run"
