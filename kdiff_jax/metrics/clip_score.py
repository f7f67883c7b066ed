"""CLIP score: how well images show what their prompts say (Hessel et al. 2021).

100 times the mean cosine between an image and its prompt, at least 0, as torchmetrics
has it. BK-SDM and DMD2 report the cosine itself: a hundredth of this.
"""

from kdiff_jax.metrics.seen import Seen, similarities_of

NEEDS = ("similarities",)
NEEDS_OF_REFERENCE: tuple[str, ...] = ()
MIN_IMAGES = 1
RESAMPLED = True
BETTER = {"clip_score": "higher"}
OWN_NAME = True  # it is none of the features: its network is the row's `clip`


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """The score of all images."""
    del reference
    cosine = similarities_of(found).mean(dtype="f8")
    return {"clip_score": max(0.0, 100 * float(cosine))}
