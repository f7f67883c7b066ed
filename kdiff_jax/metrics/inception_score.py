"""Inception score, from a classifier's logits."""

import numpy as np
from jaxtyping import Float

from kdiff_jax.metrics.checks import Numbers, check_features
from kdiff_jax.metrics.kd import Spread
from kdiff_jax.metrics.seen import Seen, logits_of

NEEDS = ("logits",)
NEEDS_OF_REFERENCE = ()
SHUFFLE = 2020  # of torch-fidelity
MIN_IMAGES = 10
BETTER = {"inception_score": "higher"}
RESAMPLED = True


def measure(found: Seen, reference: Seen) -> dict[str, float]:
    """Mean and standard deviation over ten parts of the samples, shuffled.

    Args:
        found: The samples, by their `logits`; 10 or more.
        reference: Not read.

    Returns:
        {"inception_score": mean, "inception_score_std": deviation}; the mean lies
        between 1 and the number of classes.

    Source: Salimans et al. 2016, arXiv:1606.03498, section 4.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax.metrics.inception_score import measure
        >>> from kdiff_jax.metrics.seen import Seen
        >>> unsure = Seen(logits=np.zeros((20, 4), np.float32))
        >>> measure(unsure, Seen())
        {'inception_score': 1.0, 'inception_score_std': 0.0}
    """
    del reference
    score = inception_score(logits_of(found), seed=SHUFFLE)
    return {"inception_score": score.mean, "inception_score_std": score.std}


def inception_score(
    logits: Float[Numbers, "N K"], *, num_splits: int = 10, seed: int | None = None
) -> Spread:
    """exp of the mutual information between image and class: sharp and varied is high.

    exp(mean_i KL(p(y|x_i) || mean_j p(y|x_j))), in each split on its own

    Args:
        logits: The classifier's, before the softmax. The published numbers use the
            1008 logits of Inception-v3 without their bias.
        num_splits: Equal parts in the order of the images; 1 uses all at once.
        seed: Shuffles the images before splitting, for images sorted by class; 2020 is
            torch-fidelity's default. None keeps the order, as the original code does.

    Returns:
        (mean, std) over the splits; the mean lies between 1 and the number of classes.

    Raises:
        ValueError: If there are fewer images than splits.
        NumericsError: If a logit is complex or not finite.

    Source: Salimans et al. 2016, arXiv:1606.03498, section 4.

    Examples:
        >>> import numpy as np
        >>> from kdiff_jax import metrics
        >>> score = metrics.inception_score(100 * np.eye(4), num_splits=1)
        >>> round(score.mean, 6), score.std
        (4.0, 0.0)
    """
    if num_splits < 1:
        raise ValueError(f"num_splits={num_splits}: at least 1; 10 is usual")
    logits = check_features("logits", logits, min_rows=num_splits)
    if seed is not None:
        logits = logits[np.random.RandomState(seed).permutation(len(logits))]
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    bounds = [i * len(p) // num_splits for i in range(num_splits + 1)]
    scores = []
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        part, log_part = p[first:last], log_p[first:last]
        # A class that no image has adds 0, not 0 * log 0.
        log_mean = np.log(np.maximum(part.mean(axis=0), np.finfo(float).tiny))
        divergence = (part * (log_part - log_mean[None, :])).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return Spread(float(np.mean(scores)), float(np.std(scores)))
