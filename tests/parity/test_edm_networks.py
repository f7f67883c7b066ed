"""SongUNet and ADM against NVlabs/edm's code.

Data: NVlabs/edm at 008a4e5316c8e3bfe61a62f874bddba254295afb (2024-03-16), run by
PyTorch 2.13.0 on a CPU in float32, eval mode, on networks with random weights. That
code is CC BY-NC-SA 4.0; none of it is here. Outputs' own noise (another order of the
same arithmetic) is 3e-6.
"""

import functools

import jax
import jax.numpy as jnp
import loaders
import numpy as np
import pytest
from flax import traverse_util
from tolerance import GRADIENT, UNET

NAMES = [
    # Outputs and gradients of all are compared by interop/test_edm.py, by default too.
    pytest.param(name, marks=() if "_vp_" in name else pytest.mark.slow)
    for name in loaders.NETWORKS
    if name.startswith("edm")
]


def precondition(name, sigma):
    """c_skip, c_out, c_in, c_noise of Table 1, in float64."""
    sigma = sigma.astype(np.float64)
    if "_vp_" in name:  # beta_d = 19.9, beta_min = 0.1, M = 1000
        t = (np.sqrt(0.1**2 + 2 * 19.9 * np.log(1 + sigma**2)) - 0.1) / 19.9
        return np.ones_like(sigma), -sigma, 1 / np.sqrt(sigma**2 + 1), 999 * t
    total = sigma**2 + 0.5**2
    return 0.5**2 / total, 0.5 * sigma / total**0.5, total**-0.5, np.log(sigma) / 4


@functools.cache
def results(name):
    """(arrays, what the reference computed; ours)."""
    module, params = loaders.network(name)
    data = loaders.arrays(name)
    coefficients = precondition(name, data["sigma"])
    c_skip, c_out, c_in, c_noise = (jnp.asarray(c, jnp.float32) for c in coefficients)
    c_skip, c_out, c_in = (c[:, None, None, None] for c in (c_skip, c_out, c_in))
    # The network gets the reference's own rounding of c_noise. VP's goes to 999, inside
    # a sine, and the reference's float32 formula cancels to 5e-4 where it is near 0.
    np.testing.assert_allclose(c_noise, data["c_noise"].reshape(-1), 1e-5, atol=1e-3)
    c_noise = jnp.asarray(data["c_noise"].reshape(-1))
    y = jnp.full(len(data["x"]), -1)
    no_label = y
    if "class_labels" in data:
        y = jnp.argmax(data["class_labels"], -1)

    def denoise(params, x, y, augment):
        F = module.apply({"params": params}, c_in * x, c_noise, y, augment=augment)
        D = c_skip * x + c_out * F
        return jnp.sum(D * data["cotangent"]), (F, D)

    run = jax.jit(jax.value_and_grad(denoise, (0, 1), has_aux=True))
    augment = data["augment_labels"]
    (_, (F, D)), (grads, grad_x) = run(params, data["x"], y, augment)
    found = dict(F_x=F, D_x=D, grad_x=grad_x, grads=grads)
    found["D_x_noaug"] = run(params, data["x"], y, 0 * augment)[0][1][1]
    found["D_x_nolabel"] = run(params, data["x"], no_label, 0 * augment)[0][1][1]
    return data, found


@pytest.mark.parametrize("name", NAMES)
def test_the_raw_output_is_the_reference_s(name):
    data, found = results(name)
    np.testing.assert_allclose(found["F_x"], data["F_x"], **UNET)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["D_x", "D_x_noaug"])
def test_the_denoiser_is_the_reference_s(name, which):
    data, found = results(name)
    # D of VP is of the order of sigma_max = 80, and so is its error.
    tolerance = dict(UNET, atol=UNET["atol"] * (80 if "_vp_" in name else 1))
    np.testing.assert_allclose(found[which], data[which], **tolerance)


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_denoiser_without_a_label_is_the_reference_s(name):
    data, found = results(name)
    np.testing.assert_allclose(found["D_x_nolabel"], data["D_x_nolabel"], **UNET)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_the_input_is_the_reference_s(name):
    data, found = results(name)
    np.testing.assert_allclose(found["grad_x"], data["grad_x"], **GRADIENT)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradients_of_all_parameters_have_the_reference_s_norms(name):
    _, found = results(name)
    norms = {
        path: float(jnp.linalg.norm(leaf))
        for path, leaf in traverse_util.flatten_dict(found["grads"]).items()
    }
    assert norms.pop(("map_noise", "freqs"), 0.0) == 0.0  # a buffer
    expected = loaders.gradient_norms(name)
    assert norms.keys() == expected.keys()
    for path, norm in norms.items():
        np.testing.assert_allclose(norm, expected[path], **GRADIENT, err_msg=str(path))
