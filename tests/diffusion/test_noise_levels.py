"""The noise levels of training: closed forms and moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from tolerance import IDENTITY

from kdiff_jax import rng
from kdiff_jax.diffusion import noise_levels, process

KEYS = jax.random.split(jax.random.key(0), 20_000)


def test_by_hand():
    np.testing.assert_allclose(
        noise_levels.lognormal(jnp.array([-1.0, 0.0, 1.0])),
        np.exp([-2.4, -1.2, 0.0]),
        **IDENTITY,
    )
    # ends of VE, and its geometric middle sqrt(2)
    np.testing.assert_allclose(
        noise_levels.loguniform(jnp.array([0.0, 0.5, 1.0])),
        [0.02, 2**0.5, 100],
        rtol=1e-5,
    )
    # u = 0 is t = 1: sqrt(exp(9.95 + .1) - 1); u = 1 is t = 1e-5: about sqrt(1e-6)
    np.testing.assert_allclose(
        noise_levels.vp(jnp.array([0.0, 1.0])),
        [np.sqrt(np.expm1(10.05)), np.sqrt(np.expm1(0.5 * 19.9e-10 + 1e-6))],
        rtol=2e-3,
    )


def test_edm_draws_a_lognormal():
    t = noise_levels.make("edm", process.edm())(KEYS)
    # standard errors: 1.2 / sqrt(20000) = .0085, and .006 of the deviation
    np.testing.assert_allclose(jnp.log(t).mean(), -1.2, atol=0.03)
    np.testing.assert_allclose(jnp.log(t).std(), 1.2, atol=0.03)


def test_parameters_reach_the_distribution():
    t = noise_levels.make("ve", process.edm(), sigma_min=1.0, sigma_max=2.0)(KEYS)
    assert 1 <= t.min() and t.max() <= 2
    np.testing.assert_allclose(jnp.log(t).mean(), np.log(2) / 2, atol=0.01)


def test_process_time_is_uniform():
    t = noise_levels.make("process", process.discrete(num_timesteps=4))(KEYS)
    np.testing.assert_allclose(np.bincount(t.astype(int)) / len(t), 0.25, atol=0.02)


EDM = process.edm()
CASES = {
    "cosine": ("process", process.cosine()),
    "discrete": ("process", process.discrete(num_timesteps=50)),
    "loguniform": ("process", EDM),
    "edm": ("edm", EDM),
    "vp": ("vp", EDM),
    "ve": ("ve", EDM),
}
every_case = pytest.mark.parametrize("case", CASES)


def ranges(p):
    """Three that meet, with a share of every distribution."""
    borders = {0.0: [0.2, 0.7], 0.002: [0.1, 3.0]}[p.t_min]
    borders = [14.0, 39.0] if p.num_timesteps else borders
    ends = [p.t_min, *borders, p.t_max]
    return [jnp.float32(pair) for pair in zip(ends, ends[1:], strict=False)]


@every_case
def test_the_whole_range_draws_the_same_bits(case):
    name, p = CASES[case]
    draw = noise_levels.make(name, p)
    whole = jnp.float32([p.t_min, p.t_max])
    np.testing.assert_array_equal(draw(KEYS, whole), draw(KEYS))
    np.testing.assert_array_equal(jax.jit(draw)(KEYS, whole), jax.jit(draw)(KEYS))


@every_case
def test_a_part_is_the_distribution_given_the_range(case):
    """Kolmogorov-Smirnov against what of 20000 free draws lies in the range."""
    name, p = CASES[case]
    draw = jax.jit(noise_levels.make(name, p))
    free = np.asarray(draw(jax.random.split(jax.random.key(1), 20_000)))
    shares = []
    for i, (lo, hi) in enumerate(ranges(p)):
        t = np.asarray(draw(KEYS, jnp.stack([lo, hi])))
        lo, hi = (-np.inf if i == 0 else lo), (np.inf if i == 2 else hi)
        assert (t > lo).all() and (t <= hi).all()
        expected = free[(free > lo) & (free <= hi)]
        shares.append(len(expected) / len(free))
        assert shares[-1] > 0.02
        # The critical value at a level of 1e-6, both samples' sizes counted.
        bound = 2.7 * np.sqrt(1 / len(t) + 1 / len(expected))
        assert scipy.stats.ks_2samp(t, expected).statistic < bound
    np.testing.assert_allclose(sum(shares), 1)


@pytest.mark.parametrize("share", [1e-4, 0.3])
def test_truncated_lognormal_far_from_its_middle(share):
    """Against SciPy's truncated normal, in both tails."""
    tail = scipy.stats.norm.isf(share)
    for lo, hi in ((tail, tail + 0.5), (-tail - 0.5, -tail)):
        ends = jnp.exp(-1.2 + 1.2 * jnp.float32([lo, hi]))
        t = noise_levels.make("edm", process.edm(sigma_min=1e-4))(KEYS, ends)
        n = (np.log(np.asarray(t, np.float64)) + 1.2) / 1.2
        known = scipy.stats.truncnorm(lo, hi)
        # Five standard errors of 20000 draws.
        np.testing.assert_allclose(n.mean(), known.mean(), atol=5 * known.std() / 141)
        np.testing.assert_allclose(n.std(), known.std(), rtol=0.03)


def test_three_ranges_make_the_whole_of_equal_shares():
    p = process.discrete(num_timesteps=12)
    draw = noise_levels.make("process", p)
    parts = [draw(KEYS, pair) for pair in ((0, 3), (3, 7), (7, 11))]
    counts = np.bincount(np.concatenate(parts).astype(int)) / len(KEYS)
    # 4 indices in each: 1/4 each, with a standard error of .003.
    np.testing.assert_allclose(counts, 0.25, atol=0.02)


@every_case
def test_borders_are_kept_for_the_least_and_largest_draw(case, monkeypatch):
    """u = 0, and the last number before 1."""
    name, p = CASES[case]
    edges = jnp.array([0.0, np.nextafter(np.float32(1), 0)])
    monkeypatch.setattr(rng, "uniform", lambda keys, name: edges)
    normal = jnp.array([-5.4, 5.4])  # as far as jax.random.normal goes
    monkeypatch.setattr(rng, "normal", lambda keys, name, shape: normal)
    for low in np.linspace(p.t_min, p.t_max, 30)[1:-1].astype(np.float32):
        for width in (1.0, 1.3) if p.num_timesteps else (1e-3, 0.02):
            hi = np.float32(low + width * (1 if p.num_timesteps else low))
            t = noise_levels.make(name, p)(None, jnp.stack([low, hi]))
            assert (t > low).all()
            assert (t <= hi).all() or hi >= p.t_max


def test_vp_and_its_share_are_inverse():
    u = jnp.linspace(0, 1, 12)[1:-1]
    np.testing.assert_allclose(
        noise_levels.vp_cdf(noise_levels.vp(u)), 1 - u, rtol=1e-5
    )


def test_mistakes():
    with pytest.raises(ValueError, match="times='log': unknown"):
        noise_levels.make("log", process.edm())
    with pytest.raises(ValueError, match="times='edm': draws noise levels"):
        noise_levels.make("edm", process.cosine())
