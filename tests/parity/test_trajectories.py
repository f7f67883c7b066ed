"""Whole sampler runs with the reference's networks, preconditioning and noise.

EDM: NVlabs/edm at 008a4e5316c8e3bfe61a62f874bddba254295afb (2024-03-16; CC BY-NC-SA
4.0, none of its code is here), PyTorch 2.13.0, CPU: its sampler in float64 around
float32 networks; recorded results and churn noise cast to float32. Progressive
Distillation: google-research/diffusion_distillation (Apache-2.0), by a mirror at
cfffd04cacd43840007e35d9f3047d240fd4b4cd, JAX 0.10.2, float32.
"""

import functools

import jax.numpy as jnp
import loaders
import numpy as np
import pytest
from tolerance import LOSS, UNET

from kdiff_jax import denoiser, samplers
from kdiff_jax.diffusion import process
from kdiff_jax.losses import regression

CHURN = dict(S_churn=40.0, S_min=0.05, S_max=50.0, S_noise=1.003)
ADM, VP, NCSNPP = [name for name in sorted(loaders.NETWORKS) if "edm" in name]


@functools.cache
def edm_run(name):
    """What the reference recorded with one network: arrays in NHWC."""
    with np.load(loaders.DATA / "edm_samplers.npz") as file:
        found = {k.split("/")[1]: file[k] for k in file if k.startswith(name + "/")}
    return {k: np.moveaxis(v, -3, -1) if v.ndim > 3 else v for k, v in found.items()}


@pytest.mark.parametrize(
    "name, key, sampler, keywords",
    [
        (ADM, "heun18", "heun", dict(num_steps=18)),
        # These two, read from pickles, are sampled by interop/test_edm.py.
        pytest.param(VP, "heun18", "heun", dict(num_steps=18), marks=pytest.mark.slow),
        pytest.param(
            *(NCSNPP, "heun18", "heun", dict(num_steps=18)), marks=pytest.mark.slow
        ),
        (ADM, "churn18", "heun", dict(num_steps=18, **CHURN)),
        (VP, "churn18", "heun", dict(num_steps=18, **CHURN)),
        (ADM, "ablation_euler_edm_linear_none_10", "euler", dict(num_steps=10)),
        (ADM, "ablation_heun_edm_linear_none_10", "heun", dict(num_steps=10)),
    ],
)
def test_edm(name, key, sampler, keywords):
    module, params = loaders.network(name)
    data = edm_run(name)
    one_hot = data.get("class_labels", np.zeros((2, 0)))
    p = process.edm()
    net = denoiser.make(
        module,
        p,
        precondition="vp" if "_vp_" in name else "edm",
        image_shape=data["latents"].shape[1:],
        num_classes=one_hot.shape[1],
    )
    y = jnp.asarray(np.argmax(one_hot, -1) if one_hot.size else np.zeros(2, int))
    noise = jnp.asarray(data.get("churn_noise", np.zeros(1)))
    got = samplers.make(sampler, process=p, **keywords).sample(
        lambda x, t, y: net.apply(params, x, t, y),
        jnp.asarray(data["latents"]),
        y,
        noise=lambda i: noise[i],
    )
    # The VP network's denoiser is of the order of sigma_max; so is its end point.
    tolerance = dict(UNET, atol=3e-3) if name == VP else UNET
    np.testing.assert_allclose(got, data[key], **tolerance)


@functools.cache
def pd_run(output):
    """(arrays, denoiser) of the tiny network read as `output`."""
    name = f"gr_dd_tiny_{'both' if output == 'both' else 'uncond'}"
    module, params = loaders.network(name)
    net = denoiser.make(
        module, process.cosine(), precondition=output, image_shape=(8, 8, 3)
    )
    return loaders.arrays(name), lambda x, t, y=None: net.apply(params, x, t, y)


PD_TOLERANCE = {
    "x": UNET,
    "v": UNET,
    # The reference's float32 weight of eps, 1 - sigma^2, is 0 at t = 1; ours is alpha.
    "both": dict(rtol=0, atol=5e-4),
    # x0_hat = (z - sigma eps) / alpha reaches 1e5: relative to the largest value.
    "eps": UNET,
}


def assert_close(got, expected, output):
    scale = max(1.0, np.abs(expected).max()) if output == "eps" else 1.0
    np.testing.assert_allclose(got / scale, expected / scale, **PD_TOLERANCE[output])


@pytest.mark.parametrize(
    "output, num_steps, clip",
    [
        # By default each output, and clipping or none; both of "both".
        ("x", 8, 1),
        pytest.param("x", 1, 0, marks=pytest.mark.slow),
        ("v", 4, 0),
        pytest.param("v", 2, 1, marks=pytest.mark.slow),
        ("eps", 8, 1),
        pytest.param("eps", 2, 0, marks=pytest.mark.slow),
        ("both", 8, 1),
        ("both", 1, 0),
    ],
)
def test_progressive_distillation_ddim(output, num_steps, clip):
    data, denoise = pd_run(output)
    sampler = samplers.make(
        "ddim", process=process.cosine(), num_steps=num_steps, clip=bool(clip)
    )
    got = sampler.sample(denoise, jnp.asarray(data["init_x"]))
    expected = data[f"{output}/ddim{num_steps}/clip{clip}"]
    assert_close(got, expected, output)


@pytest.mark.parametrize(
    "output, name, variance",
    [
        ("x", "fixed_small", 0.0),
        ("v", "fixed_large", 1.0),
        ("both", "fixed_medium:0.3", 0.3),
    ],
)
def test_progressive_distillation_ancestral(output, name, variance):
    data, denoise = pd_run(output)
    noise = jnp.asarray(data["noisy_noise"])
    sampler = samplers.make(
        "ancestral", process=process.cosine(), num_steps=8, variance=variance, clip=True
    )
    got = sampler.sample(denoise, jnp.asarray(data["init_x"]), noise=lambda i: noise[i])
    np.testing.assert_allclose(got, data[f"{output}/noisy8/{name}"], **UNET)


@pytest.mark.parametrize("output", ["x", "eps", "v", "both"])
def test_progressive_distillation_losses(output):
    data, denoise = pd_run(output)
    p = process.cosine()
    x0, eps, t = (jnp.asarray(data[k]) for k in ("x", "eps", "u"))
    x0_hat = denoise(p.add_noise(x0, eps, t), t)
    assert_close(x0_hat, data[f"{output}/model_x"], output)
    error = regression.mse_per_example(x0_hat, x0)
    for weight in ("constant", "snr", "snr_trunc", "v_mse"):
        loss = regression.weight(weight, p.logsnr(t)) * error
        np.testing.assert_allclose(loss, data[f"{output}/loss_cont/{weight}"], **LOSS)


def test_progressive_distillation_schedule():
    data, _ = pd_run("x")
    logsnr = process.cosine().logsnr(jnp.asarray(data["sched_u"]))
    np.testing.assert_allclose(logsnr, data["sched_logsnr"], rtol=1e-6, atol=2e-6)
