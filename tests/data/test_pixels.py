"""uint8 <-> [-1, 1], by hand arithmetic."""

import jax
import numpy as np
import pytest

from kdiff_jax import pixels


def test_the_ends_and_the_middle():
    x = np.asarray(pixels.to_float(np.array([0, 51, 102, 255], np.uint8)))
    np.testing.assert_allclose(x, [-1, -0.6, -0.2, 1], rtol=1e-6)  # 51/127.5 = 0.4
    assert x.dtype == np.float32


def test_all_levels_survive_the_round_trip():
    u = np.arange(256, dtype=np.uint8)
    for there, back in (
        (pixels.to_float, pixels.to_uint8),
        (jax.jit(pixels.to_float), jax.jit(pixels.to_uint8)),
    ):
        np.testing.assert_array_equal(back(there(u)), u)


@pytest.mark.parametrize(
    "x, rounded, truncated",
    [
        (-3.0, 0, 0),
        (-1.0, 0, 0),
        (0.0, 128, 127),  # 127.5, to even
        (0.5, 191, 191),  # 191.25
        (0.51, 193, 192),  # 192.525
        (0.999, 255, 254),  # 254.8725
        (1.0, 255, 255),
        (7.0, 255, 255),
    ],
)
def test_rounding_and_truncation(x, rounded, truncated):
    x = np.full((1,), x, np.float32)
    assert pixels.to_uint8(x).tolist() == [rounded]
    assert pixels.truncate_to_uint8(x).tolist() == [truncated]


def test_truncated_targets_lie_below():
    x = np.linspace(-1, 1, 10_001, dtype=np.float32)
    off = np.asarray(pixels.to_float(pixels.truncate_to_uint8(x))) - x
    # Within one level below, half a level on the average; a level is 2/255.
    assert -2 / 255 < off.min() and off.max() <= 1e-6
    np.testing.assert_allclose(off.mean(), -1 / 255, rtol=0.02)


def test_noise_in_float16_is_within_its_half_ulp():
    """2^-11 relative: 11 bits of mantissa; and the tails of N(0, 1) do not overflow."""
    z = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    kept = z.astype(np.float16).astype(np.float32)
    assert np.isfinite(kept).all()
    large = np.abs(z) > 1e-4
    assert (np.abs(kept - z)[large] <= 2.0**-11 * np.abs(z[large])).all()
