"""How often a classifier sees in an image the class that was asked for."""

from kdiff_jax.metrics.seen import Seen, classes_of, logits_of

NEEDS = ("logits", "classes")
NEEDS_OF_REFERENCE = ()
MIN_IMAGES = 1
BETTER = {"class_accuracy": "higher"}
RESAMPLED = True


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """Share of the images whose largest logit is that of the class asked for."""
    del reference
    right = logits_of(found).argmax(axis=1) == classes_of(found)
    return {"class_accuracy": float(right.mean())}
