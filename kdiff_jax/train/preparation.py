"""How a reference's images were brought to their size, and how those beside it are."""

import logging
from collections.abc import Mapping
from typing import Any

from kdiff_jax.data.resize import described
from kdiff_jax.errors import DataError
from kdiff_jax.metrics.stats import Stats
from kdiff_jax.train.coco_protocols import Protocol

log = logging.getLogger(__name__)

Prepared = Mapping[str, Any]


def check(
    text: str,
    found: Stats,
    protocol: Protocol | None = None,
    data: Prepared | None = None,
) -> None:
    """Refuses a reference whose images were prepared otherwise; says what is not known.

    What images went through before this project saw them nobody tells: of images that
    were neither cropped nor resized there is nothing to compare.

    Args:
        text: What the user named.
        found: The reference.
        protocol: The protocol that prepares made images.
        data: What was done to the data of the run, see `resize.described`.

    Raises:
        DataError: Names both.
    """
    refuse(text, found, protocol, data)
    _say_unknown(text, found)
    if found.prepared is None:
        return
    if protocol and found.prepared.get("resize") is None:
        log.warning(
            "reference=%s: of images as they were found, perhaps prepared otherwise"
            " than %s does; --make_reference --protocol=%s makes one of its own",
            *(text, protocol.name, protocol.name),
        )
    usual = described(found.prepared.get("resize"))
    if not protocol and (apart := differences(found.prepared, usual)):
        log.warning(
            "reference=%s: made of images with %s, where this project has %s: figures"
            " compare with those of this reference alone",
            *(text, _told(found.prepared, apart), _told(usual, apart)),
        )


def refuse(
    text: str, found: Stats, protocol: Protocol | None, data: Prepared | None
) -> None:
    """The refusals of `check` alone."""
    wanted, whose = data, "the data of this run"
    if protocol:
        wanted, whose = protocol.look.described(), protocol.name
    if not wanted or not found.prepared:
        return
    if apart := differences(found.prepared, wanted):
        raise DataError(
            f"reference={text}: made of images with {_told(found.prepared, apart)}, and"
            f" {whose} has {_told(wanted, apart)}; make one of images that are prepared"
            " the same"
        )


def differences(one: Prepared, other: Prepared) -> list[str]:
    """What differs between two preparations, as far as both say it.

    Args:
        one: As `resize.described` has it; None is what was not done.
        other: The same.
    """
    both = one.get("resize") is not None and other.get("resize") is not None
    names = [n for n in described(None) if None not in (one.get(n), other.get(n))]
    names += ["jpeg"] if both else []
    return [name for name in names if one.get(name) != other.get(name)]


def _say_unknown(text: str, found: Stats) -> None:
    """Says in one line what a file does not."""
    facts = {
        "features": found.features,
        "preprocessing": found.preprocessing,
        "number of images": found.num,
        "crop, resize and flip": found.prepared,
    }
    if lacking := [name for name, value in facts.items() if value is None]:
        log.info(
            "reference=%s: does not say its %s; taken for those of this evaluation",
            *(text, "; ".join(lacking)),
        )


def _told(prepared: Prepared, names: list[str]) -> str:
    return ", ".join(f"{name}={prepared.get(name)}" for name in names)
