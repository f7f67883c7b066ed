"""Trajectories of huggingface/diffusers' schedulers, without a network.

Reference: diffusers 0.42.1, torch 2.13.0 (CPU, float32), Apache-2.0: DDIMScheduler,
DDPMScheduler, DPMSolverMultistepScheduler and EulerDiscreteScheduler with the output
tanh(1.3 x) (0.2 + 0.8 cos(t / 700)) + 0.1 x read as eps, v or x0, noise recorded;
schedules linear (1e-4, 0.02), scaled_linear (0.00085, 0.012) and squaredcos_cap_v2.
"""

import functools
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import BLOCK

from kdiff_jax import samplers
from kdiff_jax.diffusion import grids, precondition, predict, process

with np.load(pathlib.Path(__file__).parent / "data/diffusers_schedulers.npz") as file:
    FIXTURE = dict(file)

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
OUTPUTS = {"epsilon": "eps", "v_prediction": "v", "sample": "x"}
# diffusers clips x0 in DDPM and DDIM unless told otherwise; DDIM keeps the raw eps
CLIP = dict(clip=True, clip_eps=False)
SAMPLERS = {
    "ddim20_eta0": ("ddim", dict(num_steps=20, **CLIP)),
    "ddim20_eta1": ("ddim", dict(num_steps=20, eta=1.0, **CLIP)),
    "ddim10_trailing_eta0": ("ddim", dict(num_steps=10, spacing="trailing", **CLIP)),
    "ddpm20_fixed_small": ("ancestral", dict(num_steps=20, variance=0.0, clip=True)),
    "ddpm20_fixed_large": ("ancestral", dict(num_steps=20, clip=True)),
    "dpmpp2m_20": ("dpm_solver", dict(num_steps=20)),
    "euler_20": ("euler", dict(num_steps=20, spacing="fractional")),
}


def images(name):
    return jnp.asarray(np.moveaxis(FIXTURE[name], -3, -1))


@functools.cache
def schedule(name):
    ends = {"scaled_linear": dict(beta_min=0.00085, beta_max=0.012)}.get(name, {})
    return process.discrete(schedule=name.removesuffix("_cap_v2"), **ends)


@pytest.mark.parametrize("name", SCHEDULES)
def test_alphas_cumprod(name):
    alpha = schedule(name).alpha(jnp.arange(1000.0))
    # the reference multiplies a thousand factors in float32
    np.testing.assert_allclose(alpha**2, FIXTURE[f"{name}/alphas_cumprod"], atol=1e-6)


def test_add_noise_and_velocity():
    p = schedule("linear")
    x, n = images("add_noise/x"), images("add_noise/n")
    t = jnp.asarray(FIXTURE["add_noise/t"], jnp.float32)
    np.testing.assert_allclose(p.add_noise(x, n, t), images("add_noise/out"), **BLOCK)
    # v as the reference forms it: alpha eps - sigma x0
    x_t = p.add_noise(x, n, t)
    v = predict.v_from_eps(x_t, n, alpha=p.alpha(t), sigma=p.sigma(t))
    keep = t < 900  # from eps, v carries u / alpha
    np.testing.assert_allclose(v[keep], images("velocity/out")[keep], **BLOCK)


@pytest.mark.parametrize(
    "name, spacing, num",
    [
        ("ddim20", "linear", 20),
        ("ddim10_trailing", "trailing", 10),
        ("dpmpp2m_20", "dpm", 20),
        ("euler_20", "fractional", 20),
    ],
)
def test_timesteps(name, spacing, num):
    grid = grids.subsequence(num, spacing)
    np.testing.assert_allclose(grid[:-1], FIXTURE[f"timesteps/{name}"], rtol=1e-6)


@pytest.mark.parametrize("key", SAMPLERS)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_trajectory(name, output, key):
    p = schedule(name)
    scalings = precondition.make(OUTPUTS[output], p)

    def denoise(x, t, y):
        del y
        c = scalings(t)
        wave = process.left(0.2 + 0.8 * jnp.cos(c.c_noise / 700), x)
        return precondition.combine(c, x, jnp.tanh(1.3 * x) * wave + 0.1 * x)

    sampler, keywords = SAMPLERS[key]
    z, noise = images("x_T"), images("noise")
    if sampler == "euler":
        z = z * p.sigma(jnp.array(999.0))  # its start is sigma_max z, not that / sigma
    got = samplers.make(sampler, process=p, **keywords).sample(
        denoise, z, noise=lambda i: noise[i]
    )
    expected = images(f"{name}/{output}/{key}")
    # An eps-network divides by alpha at t = 999, and nothing clips DPM-Solver and
    # Euler: values reach 4e4 there. Relative to the largest one.
    scale = max(1.0, np.abs(expected).max())
    if name == "squaredcos_cap_v2" and sampler == "euler":
        # The reference walks x / alpha, up to 2e4 in float32: 2e4 u = 1e-3.
        np.testing.assert_allclose(got / scale, expected / scale, rtol=0, atol=1e-3)
    else:
        np.testing.assert_allclose(got / scale, expected / scale, **BLOCK)
