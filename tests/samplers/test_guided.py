"""Samplers with guidance: what is asked of the denoiser, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdiff_jax import arguments, rng, samplers
from kdiff_jax.diffusion import process as processes
from kdiff_jax.errors import ConfigError
from kdiff_jax.samplers import Ranges, ddim

EDM = processes.edm()
Z = rng.normal(jax.random.split(jax.random.key(0), 4), "z", (1, 1, 2))
Y = jnp.array([0, 1, 2, 3])
KEYS = jax.random.split(jax.random.key(1), 4)


def denoise(x_t, t, y):
    """Moves by the label; at the null condition by 0.1."""
    shift = jnp.where(y < 0, 0.1, 0.3 * y.astype(jnp.float32))
    t = t[:, None, None, None]
    return (x_t + t * shift[:, None, None, None]) / (1 + t**2)


def by_hand(x_t, t, y):
    free = denoise(x_t, t, jnp.full_like(y, -1))
    return free + 2.5 * (denoise(x_t, t, y) - free)


@pytest.mark.parametrize("name", samplers.names())
def test_every_sampler_takes_guidance(name):
    plain = samplers.make(name, process=EDM, num_steps=3)
    guided = samplers.make(name, process=EDM, num_steps=3, guidance=2.5)
    found = guided.sample(denoise, Z, Y, keys=KEYS)
    expected = plain.sample(by_hand, Z, Y, keys=KEYS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    unguided = plain.sample(denoise, Z, Y, keys=KEYS)
    assert np.abs(found - unguided).max() > 0.05
    assert guided.nfe == 2 * plain.nfe
    assert guided.options == {"num_steps": 3, "guidance": 2.5}
    one = samplers.make(name, process=EDM, num_steps=3, guidance=1.0)
    again = one.sample(denoise, Z, Y, keys=KEYS)
    np.testing.assert_array_equal(again, unguided)
    assert one.nfe == plain.nfe


@pytest.mark.parametrize("name", ["heun", "ddim"])
def test_evaluations_are_counted_as_they_are_made(name):
    """Two at a guided time, one elsewhere; also where ranges have a network each."""
    asked = []

    def counted(x_t, t, y):
        asked.append(len(x_t) / len(Z))
        return denoise(x_t, t, y)

    options = dict(process=EDM, num_steps=6, guidance=2.0)
    sampler = samplers.make(name, **options, guidance_interval=(0.1, 10.0))
    plain = samplers.make(name, process=EDM, num_steps=6)
    assert plain.nfe < sampler.nfe < 2 * plain.nfe
    ranges = Ranges(lambda i: counted, lambda times: (times < 1).astype(int))
    with jax.disable_jit():
        for one in (counted, ranges):
            asked.clear()
            sampler.sample(one, Z, Y)
            assert sum(asked) == sampler.nfe
    times = samplers.asked_times(plain)
    assert len(times) == plain.nfe
    assert sampler.nfe == plain.nfe + ((times > 0.1) & (times <= 10)).sum()


def test_some_channels_can_be_guided_alone():
    z, y = jnp.concatenate([Z, Z + 1], axis=-1), Y
    options = dict(process=EDM, num_steps=3, guidance=2.5)
    of_all = samplers.make("ddim", **options).sample(denoise, z, y)
    plain = samplers.make("ddim", process=EDM, num_steps=3).sample(denoise, z, y)
    found = samplers.make("ddim", guidance_channels=3, **options).sample(denoise, z, y)
    # This denoiser's channels know nothing of each other.
    np.testing.assert_allclose(found[..., :3], of_all[..., :3], rtol=1e-6)
    np.testing.assert_allclose(found[..., 3:], plain[..., 3:], rtol=1e-6)
    with pytest.raises(ConfigError, match="guidance_channels=5: images have 4"):
        samplers.make("ddim", guidance_channels=5, **options).sample(denoise, z, y)


def test_what_guidance_cannot_be_is_refused():
    for options, text in (
        (dict(guidance=-1.0), "guidance=-1.0: must be 0 or more; the default is 1.0"),
        (dict(guidance=2.0, guidance_interval=(3, 2)), "must be .low, high. with low"),
        (dict(guidance_interval=(3,)), "guidance_interval=.3,.: must have 2 entries"),
    ):
        with pytest.raises(ConfigError, match=text):
            samplers.make("ddim", process=EDM, num_steps=2, **options)
    guided = samplers.make("ddim", process=EDM, num_steps=2, guidance=2.0)
    with pytest.raises(ConfigError, match="guidance=2.0: needs labels"):
        guided.sample(denoise, Z)


def test_a_reader_without_guidance_refuses_a_spec_with_it():
    """As a version before would: it checks against the sampler's own keywords."""
    with pytest.raises(ConfigError, match="has no keyword 'guidance'"):
        given = dict(num_steps=2, guidance=2.0)
        arguments.check(ddim.make, given, what="sampler 'ddim'", hidden=("process",))
