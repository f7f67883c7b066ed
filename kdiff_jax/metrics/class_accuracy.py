"""How often a classifier sees in an image the class that was asked for."""

from kdiff_jax.metrics.seen import Seen, classes_of, logits_of

NEEDS = ("logits", "classes")
NEEDS_OF_REFERENCE = ()
MIN_IMAGES = 1
BETTER = {"class_accuracy": "higher"}
RESAMPLED = True


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """Share of the images whose largest logit is that of the class asked for.

    Args:
        found: The samples, by their `logits` and `classes`.
        reference: Not read.

    Returns:
        {"class_accuracy": share}, 0 to 1.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics import class_accuracy
        >>> from kdiff_jax.metrics.seen import Seen
        >>> logits, asked = np.eye(4, dtype=np.float32), np.int32([0, 1, 2, 0])
        >>> found = Seen(logits=logits, classes=asked)
        >>> class_accuracy.measure(found, Seen())
        {'class_accuracy': 0.75}
    """
    del reference
    right = logits_of(found).argmax(axis=1) == classes_of(found)
    return {"class_accuracy": float(right.mean())}
