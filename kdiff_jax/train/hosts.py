"""The processes of a run agree before it starts: on what they run, and where.

They talk over JAX's coordination service, which has timeouts and needs no devices: a
collective of processes that differ would hang.
"""

import hashlib
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from kdiff_jax.errors import ConfigError, PeerError, UserError
from kdiff_jax.files import json_text
from kdiff_jax.train import peers

WAIT = 600.0  # seconds for the slowest process, that may import from a cold disk
SEEN = 60.0  # seconds until a file must be seen by all; NFS keeps a folder's names 60

_calls = itertools.count()


def on_first(act: Callable[[], Any]) -> Any:
    """What `act` returns on the first process, plain values, on all of them.

    Raises:
        UserError: What `act` raises, on all of them.
        PeerError: If the first process does not answer.
    """
    if jax.process_count() == 1:
        return act()
    key = f"kdiff/first/{next(_calls)}"
    if jax.process_index() == 0:
        try:
            value = act()
        except UserError as error:
            _set(key, {"error": str(error), "code": error.exit_code})
            raise
        _set(key, {"value": value})
        return value
    found = _get(key)
    if "error" not in found:
        return found["value"]
    kinds = {kind.exit_code: kind for kind in UserError.__subclasses__()}
    raise kinds.get(found["code"], UserError)(found["error"])


def compare(
    facts: Mapping[str, Any],
    way_out: str = "start all with the same command and the same packages",
) -> None:
    """Refuses processes that were started with different facts.

    Args:
        facts: Plain values: the config, versions, options.
        way_out: What to do then, for the message.

    Raises:
        ConfigError: On all processes; names the first values that differ.
        PeerError: If a process does not answer.
    """
    if jax.process_count() == 1:
        return
    call, text = next(_calls), json_text(dict(facts))
    _set(f"kdiff/facts/{call}/{jax.process_index()}", text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    digests = _gather(digest, f"kdiff/digest/{call}")
    others = [k for k, found in enumerate(digests) if found != digests[0]]
    if not others:
        return
    both = [json.loads(_get(f"kdiff/facts/{call}/{k}")) for k in (0, others[0])]
    lines = list(itertools.islice(_differences(*both), 5))
    raise ConfigError(
        f"processes 0 and {others[0]} of this run were started differently:"
        f" {'; '.join(lines)}; {way_out}"
    )


def check_shared(folder: pathlib.Path) -> None:
    """Refuses a folder that is not the same for all processes.

    Raises:
        ConfigError: On all processes; names those that do not see it.
        PeerError: If a process does not answer.
        OSError: If the first process cannot write in it.
    """
    if jax.process_count() == 1:
        return

    def write():
        name = f".seen.{os.urandom(8).hex()}"
        (folder / name).touch()
        return name

    probe = folder / on_first(write)
    sees = _gather(_appears(probe), f"kdiff/sees/{next(_calls)}")
    if jax.process_index() == 0:
        probe.unlink(missing_ok=True)
    blind = [str(k) for k, found in enumerate(sees) if not found]
    if blind:
        raise ConfigError(
            f"--workdir={folder}: process {', '.join(blind)} of {len(sees)} does not"
            " see what process 0 writes there; name a folder on storage that all"
            " hosts share"
        )


def _appears(path: pathlib.Path) -> bool:
    deadline = time.monotonic() + SEEN
    while time.monotonic() < deadline:
        try:
            if path.name in os.listdir(path.parent):  # which asks the server
                return True
        except OSError:
            return False  # the folder itself is not there
        time.sleep(0.5)
    return False


def _gather(value: Any, key: str) -> list[Any]:
    """A value of each process, in turn, on all of them."""
    _set(f"{key}/{jax.process_index()}", value)
    return [_get(f"{key}/{k}") for k in range(jax.process_count())]


def _set(key: str, value: Any) -> None:
    peers.client().key_value_set(key, json.dumps(value))


def _get(key: str) -> Any:
    try:
        text = peers.client().blocking_key_value_get(key, int(1000 * WAIT))
    except RuntimeError as error:
        raise PeerError(
            f"a process of this run did not answer for {WAIT:.0f} s ({key}); look at"
            " what it says, and run the same command again"
        ) from error
    return json.loads(text)


def _differences(first, other, path=""):
    if not (isinstance(first, dict) and isinstance(other, dict)):
        if first != other:
            yield f"{path} is {first!r} and {other!r}"
        return
    for key in sorted(first.keys() | other.keys()):
        inner = f"{path}.{key}" if path else key
        yield from _differences(first.get(key), other.get(key), inner)
