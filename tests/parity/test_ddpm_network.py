"""DDPM's U-Net against diffusers' `UNet2DModel`.

Data: diffusers 0.42.1 (Apache-2.0) under PyTorch 2.13.0 on a CPU in float32, eval mode,
random weights; the configuration of google/ddpm-*, made small. The output's own noise
(another order of the same arithmetic) is 2.4e-6.
"""

import functools

import jax
import jax.numpy as jnp
import loaders
import numpy as np
from flax import traverse_util
from tolerance import GRADIENT, UNET

NAME = "diffusers_tiny_ddpm"


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
