"""A batch for every student: each has its own examples, in an order of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class StudentBatches:
    """`batches[step]`: one part for each round, whose arrays have an axis of groups.

    Group g of G trains the students g R .. g R + R - 1, one in each of R rounds.

    Args:
        batches: By student, of those that this host's groups of devices train; each as
            `Batches`, with `__getitem__(step)`.
        num_rounds: R.
    """

    def __init__(self, batches: Sequence[Any], *, num_rounds: int):
        self._rounds = [batches[r::num_rounds] for r in range(num_rounds)]

    def __getitem__(self, step: int) -> tuple[dict[str, np.ndarray], ...]:
        return tuple(_stack([one[step] for one in group]) for group in self._rounds)

    def __len__(self) -> int:
        return 2**62  # endless, as far as Grain is concerned


def _stack(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if len(parts) == 1:  # without a copy
        return {name: array[None] for name, array in parts[0].items()}
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
