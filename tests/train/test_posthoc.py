"""Power-function averages and their reconstruction, against sums by hand."""

import numpy as np
import pytest

from kdiff_jax.errors import ConfigError
from kdiff_jax.train import posthoc

STEPS = 400


def weights(sigma_rel, t):
    """f64[t], what an average has of the parameters after each of t updates."""
    found = np.zeros(t)
    for s in range(1, t + 1):
        decay = posthoc.beta(sigma_rel, s)
        found *= decay
        found[s - 1] += 1 - decay
    return found


@pytest.mark.parametrize(
    ("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94), (0.01, 96.99)]
)
def test_exponents_are_those_of_the_paper(sigma_rel, gamma):
    assert posthoc.gamma(sigma_rel) == pytest.approx(gamma, abs=5e-3)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
def test_an_average_has_the_width_that_is_asked_for(sigma_rel):
    found = weights(sigma_rel, STEPS)
    places = (np.arange(STEPS) + 0.5) / STEPS
    mean = found @ places
    width = np.sqrt(found @ (places - mean) ** 2)
    assert found.sum() == pytest.approx(1)
    assert width == pytest.approx(sigma_rel, rel=2e-2)


def test_another_width_is_built_from_snapshots_of_two():
    """Of a random walk, as parameters are; nearer than any snapshot is."""
    walk = np.cumsum(np.random.default_rng(0).standard_normal((STEPS, 50)), axis=0)
    times = [t for t in range(25, STEPS + 1, 25) for _ in range(2)]
    widths = [0.05, 0.1] * (STEPS // 25)
    snapshots = [
        {"w": weights(s, t) @ walk[:t]} for t, s in zip(times, widths, strict=True)
    ]
    for wanted in (0.07, 0.15, 0.25):
        solved = posthoc.coefficients(times, widths, STEPS, wanted)
        assert solved.sum() == pytest.approx(1) and solved.min() < 0
        built = posthoc.combined(snapshots, solved)["w"]
        exact = weights(wanted, STEPS) @ walk
        error = np.abs(built - exact).mean()
        nearest = min(np.abs(s["w"] - exact).mean() for s in snapshots)
        assert error < nearest / 5, (wanted, error, nearest)
    assert built.dtype == np.float32


def test_a_snapshot_itself_is_found():
    solved = posthoc.coefficients([100, 200, 200], [0.1, 0.05, 0.1], 200, 0.1)
    np.testing.assert_allclose(solved, [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.29, 1.0])
def test_widths_that_no_average_has_are_refused(sigma_rel):
    with pytest.raises(ConfigError, match="sigma_rel=.*: must be above 0 and below"):
        posthoc.gamma(sigma_rel)
