"""Trajectories of huggingface/diffusers' schedulers, without a network.

Reference: diffusers 0.42.1, torch 2.13.0 (CPU, float32), Apache-2.0: DDIMScheduler,
DDPMScheduler, PNDMScheduler, DPMSolverMultistepScheduler and EulerDiscreteScheduler,
with the output tanh(1.3 x) (0.2 + 0.8 cos(t / 700)) + 0.1 x read as eps, v or x0, noise
recorded; schedules linear (1e-4, 0.02), scaled_linear (0.00085, 0.012) and
squaredcos_cap_v2. `options/*` are made by benchmarks/compare_diffusers.py with the same
output, read as v or eps.
"""

import functools
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import BLOCK

from kdiff_jax import samplers
from kdiff_jax.diffusion import grids, precondition, predict, process
from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.interop import schedulers
from kdiff_jax.interop.source import Facts

with np.load(pathlib.Path(__file__).parent / "data/diffusers_schedulers.npz") as file:
    FIXTURE = dict(file)

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
OUTPUTS = ("epsilon", "v_prediction", "sample")
DDIM, DDPM = "DDIMScheduler", "DDPMScheduler"
DPM, EULER = "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"
# Stable Diffusion's options
SD = dict(steps_offset=1, set_alpha_to_one=False, clip_sample=False)
SAMPLERS = {  # name -> class, steps, options, what is no option but a call's matter
    "ddim20_eta0": (DDIM, 20, {}, {}),
    "ddim20_eta1": (DDIM, 20, {}, {"eta": 1.0}),
    "ddim10_trailing_eta0": (DDIM, 10, dict(timestep_spacing="trailing"), {}),
    "ddim10_sdstyle_eta0": (DDIM, 10, SD, {}),
    "ddpm20_fixed_small": (DDPM, 20, {}, {}),
    "ddpm20_fixed_large": (DDPM, 20, dict(variance_type="fixed_large"), {}),
    "dpmpp2m_20": (DPM, 20, {}, {}),
    "dpmpp2m_karras_20": (DPM, 20, dict(use_karras_sigmas=True), {}),
    "euler_20": (EULER, 20, {}, {}),
}
ENDS = {"scaled_linear": dict(beta_start=0.00085, beta_end=0.012)}
OPTIONS = [k.removeprefix("options/") for k in FIXTURE if k.startswith("options/")]


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


def test_spacings_of_few_times_by_hand():
    def times(spacing, offset=0):
        return grids.subsequence(3, spacing, num_timesteps=10, offset=offset).tolist()

    assert times("dpm_leading") == [6, 4, 2, -1]
    assert times("leading", offset=1) == [7, 4, 1, -1]
    with pytest.raises(ConfigError, match="offset=4: 3 steps would start at 10"):
        times("leading", offset=4)
    for num in (61, 103, 48):  # where rounding gives one time more, or moves a half
        theirs = np.round(np.arange(1000, 0, -1000 / num))[:num] - 1
        assert grids.subsequence(num, "trailing")[:-1].tolist() == theirs.tolist()
    with pytest.raises(ConfigError, match="even=True"):
        samplers.make("ddim", process=process.cosine(), num_steps=2, even=True)


def test_what_a_network_is_told_between_two_indices():
    told = {name: process.discrete(told=name) for name in ("time", "log", "nearest")}
    t = jnp.array([-1.0, 0.0, 0.4, 0.5, 7.0, 998.7, 999.0])
    np.testing.assert_array_equal(told["time"].c_noise(t), t)
    np.testing.assert_array_equal(
        told["nearest"].c_noise(t), [-1, 0, 0, 1, 7, 999, 999]
    )
    level = np.sqrt(1 / np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)) - 1)[:2]
    part = np.log(0.6 + 0.4 * level[1] / level[0]) / np.log(level[1] / level[0])
    found = told["log"].c_noise(t)
    np.testing.assert_allclose(found[2], part, rtol=1e-5)
    np.testing.assert_array_equal(found[jnp.array([0, 1, 4, 6])], [-1, 0, 7, 999])
    with pytest.raises(ConfigError, match="told='index': unknown"):
        process.discrete(told="index")


FIRST = {next(iter(SCHEDULES)), next(iter(OUTPUTS))}


def run(config, num_steps, **call):
    """The image that a scheduler's config makes with the reference's output."""
    parts, _ = schedulers.read(config, Facts(num_steps=num_steps), "file")
    p = process.make(**parts["process"])
    scalings = precondition.make(parts["precondition"]["name"], p)

    def denoise(x, t, y):
        del y
        c = scalings(t)
        wave = process.broadcast_left(0.2 + 0.8 * jnp.cos(c.c_noise / 700), x)
        return precondition.combine(c, x, jnp.tanh(1.3 * x) * wave + 0.1 * x)

    noise = images("noise")
    sampler = samplers.make(process=p, **parts["sampler"], **call)
    return sampler.sample(denoise, images("x_T"), noise=lambda i: noise[i])


# Every sampler with each schedule and with each output; by default not all pairs.
CASES = [
    pytest.param(
        *(name, output, key),
        marks=() if FIRST & {name, output} else pytest.mark.slow,
    )
    for name in SCHEDULES
    for output in OUTPUTS
    for key in SAMPLERS
    if f"{name}/{output}/{key}" in FIXTURE
]


@pytest.mark.parametrize("name, output, key", CASES)
def test_trajectory(name, output, key):
    kind, num_steps, options, call = SAMPLERS[key]
    config = dict(_class_name=kind, beta_schedule=name, prediction_type=output)
    got = run(config | ENDS.get(name, {}) | options, num_steps, **call)
    expected = images(f"{name}/{output}/{key}")
    # An eps-network divides by alpha at t = 999, and nothing clips DPM-Solver and
    # Euler: values reach 4e4 there. Relative to the largest one.
    scale = max(1.0, np.abs(expected).max())
    if name == "squaredcos_cap_v2" and kind == EULER:
        # The reference walks x / alpha, up to 2e4 in float32: 2e4 u = 1e-3.
        np.testing.assert_allclose(got / scale, expected / scale, rtol=0, atol=1e-3)
    elif (name, output, key) == (SCHEDULES[2], "sample", "ddim10_sdstyle_eta0"):
        # 1 - abar of index 0 cancels in the reference's float32: it is 2.0e-5 from
        # itself in float64, from which ours is 2.4e-7.
        np.testing.assert_allclose(got, expected, rtol=0, atol=2.1e-5)
    else:
        np.testing.assert_allclose(got / scale, expected / scale, **BLOCK)


@pytest.mark.parametrize("name", OPTIONS)
def test_other_options(name):
    config = json.loads(str(FIXTURE[f"config/{name}"]))
    got = run(config, int(FIXTURE[f"num_steps/{name}"]))
    expected = images(f"options/{name}")
    # Those of an eps-network are large, see above.
    eps = config["prediction_type"] == "epsilon"
    scale = max(1.0, np.abs(expected).max()) if eps else 1.0
    np.testing.assert_allclose(got / scale, expected / scale, **BLOCK)


def test_the_runge_kutta_steps_of_pndm_are_refused():
    with pytest.raises(CheckpointError, match="skip_prk_steps=False: is not impl"):
        schedulers.read(dict(_class_name="PNDMScheduler"), Facts(), "file")
