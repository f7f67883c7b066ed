"""The U-Net of Progressive Distillation against google-research's code.

Data: google-research/diffusion_distillation (Apache-2.0), by a mirror at
cfffd04cacd43840007e35d9f3047d240fd4b4cd (2023-03-27), under JAX 0.10.2 and Flax 0.12.8
on a CPU in float32, random weights. The output's own noise is 5e-6.
"""

import jax
import jax.numpy as jnp
import loaders
import numpy as np
import pytest
from tolerance import REORDER, UNET


@pytest.mark.parametrize(
    "name, suffix", [("gr_dd_tiny_uncond", ""), ("gr_dd_tiny_both", "_out6")]
)
def test_the_output_is_the_reference_s(name, suffix):
    module, params = loaders.network(name)
    data = loaders.arrays(name)
    z, logsnr = data[f"z{suffix}"], data["logsnr"]
    out = jax.jit(module.apply)({"params": params}, z, logsnr)
    np.testing.assert_allclose(out, data[f"unet_out{suffix}"], **UNET)


def test_the_parameters_are_named_and_shaped_as_in_the_reference_s_checkpoint():
    module, params = loaders.network("gr_dd_tiny_uncond")
    data = loaders.arrays("gr_dd_tiny_uncond")
    key = jax.random.key(0)
    made = jax.eval_shape(module.init, key, data["z"], data["logsnr"])["params"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)


def test_times_beyond_the_schedule_s_ends_are_the_ends():
    module, params = loaders.network("gr_dd_tiny_uncond")
    z = loaders.arrays("gr_dd_tiny_uncond")["z"]
    run = jax.jit(module.apply)
    inside = run({"params": params}, z, jnp.array([20.0, -20.0, 20.0, -20.0]))
    beyond = run({"params": params}, z, jnp.array([50.0, -50.0, 21.0, -jnp.inf]))
    np.testing.assert_allclose(inside, beyond, **REORDER)
