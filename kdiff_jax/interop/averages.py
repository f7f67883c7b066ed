"""Which of several networks in one checkpoint is meant: the average, if any."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.formats.torch_modules import opened

AVERAGE = ("ema", "swa", "average", "averaged", "shadow")
# What averaging wrappers store beside the arrays.
COUNTERS = ("n_averaged", "initted", "step", "decay", "num_updates")
MAX_DEPTH = 4  # of dicts in each other, around a state dict


class Network(NamedTuple):
    """A network in a checkpoint.

    Attributes:
        where: The names that lead to it, "ema" or "state_dict.model."; "" if it is all.
        content: A state dict without those names, or an object.
        beside: Names in the same dict that belong to no network.
    """

    where: str
    content: Any
    beside: tuple[str, ...] = ()


def is_average(where: str) -> bool:
    """Whether a name says that these weights are a moving average."""
    words = re.split(r"[^a-z]+", where.lower())
    return any(word in AVERAGE for word in words) and "non" not in words


def choose(networks: Sequence[Network]) -> tuple[Network, list[str]]:
    """(the only network or average, a line that says which if there was a choice).

    Raises:
        CheckpointError: If there are several averages, or several networks without one.
    """
    among = list(networks)
    while len(among) > 1 and (averages := _averages(among)):
        among = averages
    if len(among) > 1:
        names = ", ".join(repr(network.where) for network in among)
        raise CheckpointError(
            f"checkpoint holds several networks, {names}; save the one that is meant by"
            " itself"
        )
    (chosen,) = among
    return chosen, said(chosen.where, [n.where for n in networks if n != chosen])


def _averages(networks: Sequence[Network]) -> list[Network]:
    """Networks that are averages by where their names differ; [] if all or none."""
    parts = [network.where.split(".") for network in networks]
    common = os.path.commonprefix(parts)
    found = [
        network
        for network, names in zip(networks, parts, strict=True)
        if is_average(".".join(names[len(common) :]))
    ]
    return found if len(found) < len(networks) else []


def said(chosen: str, others: Sequence[str]) -> list[str]:
    """The line that says which weights were taken, if there were others."""
    if not others:
        return []
    names = ", ".join(map(repr, others))
    return [f"weights={chosen!r}: the moving average, not {names} beside it"]


def of_state(state: Any, average: str) -> list[str]:
    """The line of `said` of a Flax training state that holds its average by a name."""
    if not isinstance(state, Mapping) or average not in state:
        return []
    raw = ("params", "target_params", "optimizer")
    return said(average, [name for name in raw if name in state])


def state_dicts(
    content: Any, prefixes: Callable[[Mapping], list[str]]
) -> list[Network]:
    """The networks of a family in a file of torch, wherever in it they are.

    Args:
        content: A tree.
        prefixes: What stands before the names of each network in a state dict; [] if
            there is none of this family.
    """
    return list(_walk(opened(content), prefixes, "", 0))


def _walk(content: Any, prefixes, where: str, depth: int):
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping) or depth > MAX_DEPTH:
        return
    arrays = {
        name: leaf
        for name, leaf in content.items()
        if isinstance(name, str) and isinstance(leaf, Lazy)
    }
    owned: dict[str, dict[str, Lazy]] = {start: {} for start in prefixes(arrays)}
    starts = sorted(owned, key=len, reverse=True)  # "ema." before ""
    beside = []
    for name, leaf in arrays.items():
        start = next((s for s in starts if name.startswith(s)), None)
        if start is None or (not start and name in COUNTERS):
            beside += [] if name.split(".")[-1] in COUNTERS else [name]
        else:
            owned[start][name.removeprefix(start)] = leaf
    for start, state in owned.items():
        at = ".".join(filter(None, [where, start]))
        yield Network(at, state, tuple(beside))
    for name, value in content.items():
        inside = f"{where}.{name}" if where else str(name)
        yield from _walk(opened(value), prefixes, inside, depth + 1)
