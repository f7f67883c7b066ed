"""DDPM's U-Net against diffusers' `UNet2DModel`.

Data: diffusers 0.42.1 (Apache-2.0) under PyTorch 2.13.0 on a CPU in float32, eval mode,
random weights; the configuration of google/ddpm-*, made small. The output's own noise
(another order of the same arithmetic) is 2.4e-6. `diffusers_tiny_ddpm_sampler`: whole
runs of its schedulers with this network, noise recorded.
"""

import functools

import jax
import jax.numpy as jnp
import loaders
import numpy as np
import pytest
from flax import traverse_util
from tolerance import GRADIENT, UNET

from kdiff_jax import denoiser, samplers
from kdiff_jax.diffusion import process
from kdiff_jax.interop import schedulers
from kdiff_jax.interop.source import Facts

NAME = "diffusers_tiny_ddpm"
DDIM, DDPM, DPM = "DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler"
# Stable Diffusion's options
SD = dict(steps_offset=1, set_alpha_to_one=False, clip_sample=False)
# DDIM in 50 steps without noise is left out: with these weights it is chaotic, so that
# the reference with another number of threads is 0.05 away from its own record.
RUNS = [  # key, scheduler, options, steps, what is no option but a call's matter
    ("ddpm50_fixed_small", DDPM, {}, 50, {}),
    ("ddpm50_fixed_large", DDPM, dict(variance_type="fixed_large"), 50, {}),
    ("ddim50_eta1", DDIM, {}, 50, {"eta": 1.0}),
    ("ddim10_trailing_eta0", DDIM, dict(timestep_spacing="trailing"), 10, {}),
    ("ddim10_sdstyle_eta0", DDIM, SD, 10, {}),
    ("dpmpp2m_20", DPM, {}, 20, {}),
    ("dpmpp2m_karras_20", DPM, dict(use_karras_sigmas=True), 20, {}),
    ("euler_20", "EulerDiscreteScheduler", {}, 20, {}),
]


@functools.cache
def results():
    """(the reference's arrays, eps, gradients of parameters, gradient of x)."""
    module, params = loaders.network(NAME)
    data = loaders.arrays(NAME)
    t = jnp.asarray(data["t"], jnp.float32)

    def loss(params, x):
        eps_hat = module.apply({"params": params}, x, t)
        return jnp.sum(eps_hat * data["cotangent"]), eps_hat

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, eps_hat), (grads, grad_x) = run(params, data["x"])
    return data, eps_hat, grads, grad_x


def test_the_output_is_the_reference_s():
    data, eps_hat, _, _ = results()
    np.testing.assert_allclose(eps_hat, data["eps"], **UNET)


def test_the_gradient_of_the_input_is_the_reference_s():
    data, _, _, grad_x = results()
    np.testing.assert_allclose(grad_x, data["grad_x"], **GRADIENT)


def test_the_gradients_of_all_parameters_have_the_reference_s_norms():
    _, _, grads, _ = results()
    flat = traverse_util.flatten_dict(grads)
    expected = loaders.gradient_norms(NAME)
    assert flat.keys() == expected.keys()
    for path, leaf in flat.items():
        norm = jnp.linalg.norm(leaf)
        np.testing.assert_allclose(norm, expected[path], **GRADIENT, err_msg=str(path))


@functools.cache
def sampler_runs():
    with np.load(loaders.DATA / f"{NAME}_sampler.npz") as file:
        return {k: np.moveaxis(file[k], -3, -1) for k in file}


@pytest.mark.parametrize("key, kind, options, num_steps, call", RUNS)
def test_whole_runs(key, kind, options, num_steps, call):
    data = sampler_runs()
    config = dict(_class_name=kind, **options)
    parts, _ = schedulers.read(config, Facts(num_steps=num_steps), "file")
    p = process.make(**parts["process"])
    module, params = loaders.network(NAME)
    net = denoiser.make(module, p, precondition="eps", image_shape=(16, 16, 3))
    sampler = samplers.make(process=p, **parts["sampler"], **call)
    noise = jnp.asarray(data["noise"])
    run = jax.jit(
        lambda params, z: sampler.sample(
            lambda x, t, y: net.apply(params, x, t, y), z, noise=lambda i: noise[i]
        )
    )
    got = run(params, jnp.asarray(data["x_T"]))
    scale = max(1.0, np.abs(data[key]).max())
    np.testing.assert_allclose(got / scale, data[key] / scale, **UNET)
