"""Power-function averages, and any other of their kind after the training.

At step t the average of exponent gamma is a mean of all parameters so far with weights
proportional to s^gamma at step s. Its width, relative to the length of the training, is
`sigma_rel`. Snapshots of two of them are enough to build that of another width or step.

Source: Karras et al. 2024, arXiv:2312.02696, Section 3 and Appendix C.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from kdiff_jax.errors import ConfigError


def gamma(sigma_rel: float) -> float:
    """The exponent of an average of this relative width.

    Args:
        sigma_rel: Standard deviation of the steps that it averages over, relative to
            their number; above 0 and below 12**-0.5, that of a plain mean.

    Raises:
        ConfigError: If there is no such average.
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise ConfigError(
            f"sigma_rel={sigma_rel}: must be above 0 and below 0.288; 0.05 and 0.1 are"
            " usual"
        )
    inverse = float(sigma_rel) ** -2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(np.max(np.real(roots[np.abs(np.imag(roots)) < 1e-6])))


def beta(sigma_rel: float, t_next: Any, t_delta: Any = 1) -> Any:
    """Decay of the average at an update; traceable.

    Args:
        sigma_rel: See `gamma`.
        t_next: Updates or images with this update.
        t_delta: Updates or images of this update.
    """
    return (1 - t_delta / t_next) ** (gamma(sigma_rel) + 1)


def coefficients(
    in_t: Sequence[int | float],
    in_s: Sequence[float],
    out_t: int | float,
    out_s: float,
) -> np.ndarray:
    """Weights of snapshots whose sum is closest to another average.

    Args:
        in_t: Steps of the snapshots.
        in_s: Their `sigma_rel`.
        out_t: Step of the average that is wanted, at most that of the last snapshot.
        out_s: Its `sigma_rel`.

    Returns:
        f64[n], of sum 1; some are negative.
    """
    gammas, wanted = np.array([gamma(s) for s in in_s]), gamma(out_s)
    times = np.asarray(in_t, np.float64)
    gram = _product(times[:, None], gammas[:, None], times[None], gammas[None])
    target = _product(times, gammas, np.float64(out_t), np.float64(wanted))
    found = np.linalg.lstsq(gram, target, rcond=None)[0]
    return found / found.sum()


def combined(snapshots: Sequence[Any], weights: Any) -> Any:
    """The weighted sum of parameter trees, added in float64, as float32."""

    def add(*leaves):
        parts = (w * np.asarray(x, np.float64) for w, x in zip(weights, leaves))  # noqa: B905
        return np.float32(sum(parts))

    return jax.tree.map(add, *snapshots)


def _product(t_a, a, t_b, b):
    """Inner product of two averages' weights over the training."""
    ratio, exponent = t_a / t_b, np.where(t_a < t_b, b, -a)
    scale = (a + 1) * (b + 1) / ((a + b + 1) * np.maximum(t_a, t_b))
    return scale * ratio**exponent
