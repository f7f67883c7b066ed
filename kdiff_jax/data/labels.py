"""Labels as files have them: checked, counted, and what they lack said."""

import logging
from collections.abc import Sequence

import numpy as np

from kdiff_jax.errors import DataError

log = logging.getLogger(__name__)

# More than any set of images has: a label above is a mistake, and would ask for a class
# embedding that fills the memory.
MAX_CLASSES = 2**20
WAY_OUT = "mend the labels, or train without: --config.data.use_labels=False"


def checked(
    labels: np.ndarray | Sequence[int],
    *,
    where: str,
    num_classes: int | None = None,
    names: list[str] | None = None,
) -> tuple[np.ndarray, int]:
    """The labels as int32[N], and the number of classes.

    Classes without an image keep their numbers; a line of the log names them.

    Args:
        labels: Integers of any size and type, at least one.
        where: The file, for messages.
        num_classes: Number of classes; None takes one more than the largest label.
        names: The names of the classes, if known.

    Raises:
        DataError: If a label is not in 0 .. num_classes - 1, or is above MAX_CLASSES.
    """
    # Before NumPy makes a type of it: 2^63 fits in none with a -1.
    every = labels.tolist() if isinstance(labels, np.ndarray) else labels
    low, high = min(every), max(every)
    total = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= total or total > MAX_CLASSES:
        limit = min(total if num_classes else MAX_CLASSES, MAX_CLASSES) - 1
        raise DataError(
            f"{where}: labels from {low} to {high}; they must be 0 .. {limit};"
            f" {WAY_OUT}"
        )
    found = np.asarray(labels, np.int32)
    empty = np.setdiff1d(np.arange(total), found)
    if len(empty):
        shown = [names[i] if names else str(i) for i in empty[:5].tolist()]
        more = ", ..." if len(empty) > 5 else ""
        log.info(
            "%s: %d of %d classes have no image, and keep their numbers: %s",
            where,
            len(empty),
            total,
            ", ".join(shown) + more,
        )
    return found, total
