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
    """The score of all images.

    Args:
        found: The samples, by their `similarities`.
        reference: Not read.

    Returns:
        {"clip_score": score}, 0 to 100.

    Source: Hessel et al. 2021, arXiv:2104.08718, with 100 in the place of their 2.5.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics import clip_score
        >>> from kdiff_jax.metrics.seen import Seen
        >>> found = Seen(similarities=np.float32([0.25, 0.5]))
        >>> clip_score.measure(found, Seen())
        {'clip_score': 37.5}
    """
    del reference
    cosine = similarities_of(found).mean(dtype="f8")
    return {"clip_score": max(0.0, 100 * float(cosine))}
