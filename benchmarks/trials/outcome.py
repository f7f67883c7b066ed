"""What became of a trial, in one word, and the table of all."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.trials.child import Reply

REFUSED, RECOVERED, HARMLESS = "refused", "recovered", "harmless"
SAID, SILENT, BUG, HANG = "other, said", "SILENT", "bug", "hang"
ACCEPTED = "accepted"  # where a changed input is another input, and no fault
ORDER = (REFUSED, RECOVERED, HARMLESS, ACCEPTED, SAID, SILENT, BUG, HANG)
CODES = (2, 3, 4, 5, 7, 8)  # with one line, see kdiff_jax/errors.py


class Trial(NamedTuple):
    """One injury and what came of it."""

    kind: str
    injury: str
    outcome: str
    code: int | None
    last_line: str


def judge(reply: Reply, same: bool, usual: Iterable[str] = ()) -> str:
    """The outcome of a command on an injured input.

    Args:
        reply: What the command did.
        same: Whether its result is that of the sound input.
        usual: Lines that it prints for the sound input, as `lines` gives them.
    """
    if reply.code in (None, 6):
        return HANG
    if reply.code in CODES:
        ours = [x for x in reply.output.splitlines() if x.startswith("kdiff_jax: ")]
        one_line = len(ours) == 1 and "Traceback" not in reply.output
        return REFUSED if one_line and "a bug of ours" not in reply.output else BUG
    if reply.code != 0 or "Traceback" in reply.output:
        return BUG
    said = bool(lines(reply.output) - set(usual))
    if same:
        return RECOVERED if said else HARMLESS
    return SAID if said else SILENT


def lines(output: str) -> set[str]:
    """The lines of an output, whatever the numbers in them; without tables, steps."""
    told = [x for x in output.splitlines() if "  " not in x and x[:1] != "{"]
    found = {re.sub(r"[\d.,:e+-]*\d[\d.,:]*\w*", "", x) for x in told}
    return {" ".join(x.split()) for x in found}


def trial(kind: str, injury: str, reply: Reply, outcome: str) -> Trial:
    said = [x for x in reply.output.splitlines() if x.strip()] or [""]
    ours = [x for x in said if x.startswith(("kdiff_jax:", "a bug of ours"))]
    return Trial(kind, injury, outcome, reply.code, (ours or said)[-1][:300])


def table(trials: list[Trial]) -> str:
    """Markdown: a row for each kind, a column for each outcome."""
    kinds = list(dict.fromkeys(t.kind for t in trials))
    columns = [o for o in ORDER if o != ACCEPTED or any(t.outcome == o for t in trials)]
    rows = [["kind", "trials", *columns], ["---"] + ["---:"] * (len(columns) + 1)]
    for kind in [*kinds, None]:
        here = Counter(t.outcome for t in trials if kind in (t.kind, None))
        rows.append([kind or "all", sum(here.values()), *(here[o] for o in columns)])
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
