"""What makes figures worth little, said in one line each."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from kdiff_jax.metrics import groups, table
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.seen import Gaussian, Seen, main_of

log = logging.getLogger(__name__)

CONSTANT = 1e-6  # spread over size of features that differ by rounding alone
SHOWN = 3  # groups that a line names


def of_samples(
    wanted: Sequence[str], features: Features, found: Seen, reference: Seen
) -> None:
    """Says what makes the figures of these samples worth little.

    Args:
        wanted: Names of metrics.
        features: The features.
        found: The samples.
        reference: What they are compared with.
    """
    if found.main is None:
        return
    num, dim = found.main.num or 0, len(found.main.mu)
    if is_constant(found.main):
        log.warning("num_images=%d: all images have the same features", num)
    if num <= dim and "moments" in table.needs(wanted):
        log.warning(
            "num_images=%d: no more than the %d features, so that distances are too"
            " large%s; make more images, or compare with as many alone",
            *(num, dim, _perfect(main_of(reference), num)),
        )


def of_reference(text: str, wanted: Sequence[str], reference: Seen) -> None:
    """Says what makes figures that are compared with this reference worth little.

    Args:
        text: What the user named.
        wanted: Names of metrics.
        reference: What samples are compared with; one that does not say of how many
            images it is may be of few.
    """
    if reference.main is None:
        return
    num, dim = reference.main.num, len(reference.main.mu)
    if is_constant(reference.main):
        log.warning(
            "reference=%s: all images have the same features, so that every figure is"
            " of one image; give a set of different ones",
            text,
        )
    elif num and num <= dim and "moments" in table.needs_of_reference(wanted):
        log.warning(
            "reference=%s: %d images, no more than the %d features, so that distances"
            " are too large%s; give a larger set, or compare with the same one alone",
            *(text, num, dim, _perfect(reference.main, num)),
        )


def of_groups(
    wanted: Sequence[str],
    found: Seen,
    reference: Seen,
    parts: Mapping[str, np.ndarray],
) -> None:
    """Says which metrics groups are too small for, and that their distances are large.

    Args:
        wanted: Names of metrics.
        found: The samples, with rows and labels.
        reference: What they are compared with, with rows and labels.
        parts: Name -> i64[n], the labels that belong to the group.
    """
    nums = groups.sizes(found, reference, parts)
    least = groups.least(wanted)
    for num in sorted(set(least.values())):
        few = {group: n for group, n in nums.items() if n < num}
        if few:
            names = ", ".join(name for name, own in least.items() if own == num)
            log.warning(
                "groups: %s left out of %d of %d, which have fewer than %d images (%s)",
                *(names, len(few), len(nums), num, _named(few)),
            )
    dim = len(main_of(reference).mu)
    few = {group: num for group, num in nums.items() if 2 <= num <= dim}
    if few and "moments" in table.needs(list(least)):
        log.warning(
            "groups: %d of %d have no more images than the %d features (%s), so that"
            " their distances are too large; compare groups of as many images alone",
            *(len(few), len(nums), dim, _named(few)),
        )


def is_constant(moments: Gaussian) -> bool:
    """Whether features differ by no more than rounding."""
    largest = moments.sigma.diagonal().max(initial=0.0)
    return bool(largest <= (CONSTANT * np.abs(moments.mu).max(initial=0.0)) ** 2)


def bias(reference: Gaussian, num: int) -> float:
    """The distance of so many draws of the reference itself, by one simulation.

    Draws are Z sigma^(1/2) with Z of normal numbers, so the trace of the root of the
    product of both covariances is the sum of the singular values of Z sigma: no root of
    sigma is needed, and the cost is below that of a distance.

    Args:
        reference: The moments.
        num: Number of draws, 2 to about as many as there are features.
    """
    mu, sigma, _ = reference
    draws = np.random.RandomState(0).standard_normal((num, len(mu)))
    mean = draws.mean(axis=0)
    draws -= mean[None, :]
    image = draws @ sigma
    own = (draws * image).sum() / (num - 1)
    squares = np.linalg.eigvalsh(image @ image.T)
    root = np.sqrt(np.clip(squares, 0, None)).sum() / np.sqrt(num - 1)
    return float(mean @ sigma @ mean + own + np.trace(sigma) - 2 * root)


def _perfect(reference: Gaussian, num: int) -> str:
    """How far a perfect model would be, where that says anything."""
    if num < 2 or is_constant(reference):
        return ""
    return f" (a perfect model would be at about {bias(reference, num):.3g})"


def _named(nums: Mapping[str, int]) -> str:
    """The first groups with their numbers of images."""
    shown = [f"{group}: {num}" for group, num in list(nums.items())[:SHOWN]]
    return ", ".join([*shown, *(["..."] if len(nums) > SHOWN else [])])
