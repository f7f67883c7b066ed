"""The result of one check: a line, advice where something is off, facts for others."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from kdiff_jax import memory, storage
from kdiff_jax.errors import Interrupted, UserError
from kdiff_jax.files import json_text

FINE, ADVICE, BROKEN, SKIPPED = "fine", "advice", "broken", "skipped"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: What was looked at.
        text: What was seen, in one line.
        advice: What to do about it, in one line; "" if nothing is off.
        facts: Plain values for a bug report.
        exit_code: Code that a run would end with because of it; 0 if it would run.
        skipped: Whether the check could not be made, for another one's reason.
    """

    name: str
    text: str
    advice: str = ""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    exit_code: int = 0
    skipped: bool = False

    @property
    def state(self) -> str:
        """One word: fine, advice, broken or skipped."""
        if self.skipped:
            return SKIPPED
        if self.exit_code:
            return BROKEN
        return ADVICE if self.advice else FINE

    def line(self) -> str:
        """The finding for people, with its advice on a line below."""
        text = f"{self.state:8}{self.name:13}{self.text}"
        return text + (f"\n{'':21}-> {self.advice}" if self.advice else "")

    def plain(self) -> dict[str, Any]:
        """The finding in plain values."""
        about = dict(name=self.name, state=self.state, text=self.text)
        return {**about, "advice": self.advice, "facts": dict(self.facts)}


def of(name: str, check: Callable[[], Finding]) -> Finding:
    """What a check finds; what it raises is a finding as well.

    Args:
        name: What is looked at.
        check: The check.

    Raises:
        Interrupted: If a signal asked to stop.
    """
    try:
        found = check()
        json_text(found.facts)  # what is no plain value is a bug of the check
        return found
    except Interrupted:
        raise
    except UserError as error:
        text, _, advice = str(error).partition("; ")
        advice = advice or "see the line above"
        return Finding(name, _line(text), _line(advice), exit_code=error.exit_code)
    except Exception as error:
        return _failed(name, error)


def skip(name: str, why: str) -> Finding:
    """The finding of a check that another one's failure has made impossible."""
    return Finding(name, f"not tried: {why}", skipped=True)


def _failed(name: str, error: Exception) -> Finding:
    if known := storage.error_of(error):
        text, _, advice = str(known).partition("; ")
        return Finding(name, text, advice, exit_code=known.exit_code)
    text = _line(f"{type(error).__name__}: {error}")
    if memory.is_out(error):
        advice = "end what else uses this device, or take one with more memory"
        return Finding(name, f"out of memory ({text})", advice, exit_code=2)
    advice = "mend the device or its driver, or report this with --json"
    return Finding(name, text, advice, exit_code=1)


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
