"""The autoencoder against diffusers' `AutoencoderKL`.

Data: `autoencoder_kl`, diffusers 0.42.1 (Apache-2.0) under PyTorch 2.13.0 on a CPU in
float64; weights by name (`encoder_files`); `grad_l2` of sum(decoded^2) + sum(mean^2) +
sum(logvar^2). Tiles of 16 pixels.
"""

import json
import pathlib

import encoder_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_files import ATTENTION, PLAIN

from kdiff_jax import latent
from kdiff_jax.encoders import autoencoder_kl, tiles
from kdiff_jax.encoders.autoencoder_kl import AutoencoderKL
from kdiff_jax.errors import ConfigError
from kdiff_jax.interop import autoencoder, trees
from kdiff_jax.networks import layers

DATA = pathlib.Path(__file__).parents[1] / "parity/data"
VAE = dict(rtol=0, atol=1e-4)
GRADIENT = 1e-3  # of the largest
CASES = {"plain": PLAIN, "attention": ATTENTION}


@pytest.fixture(scope="module")
def data():
    with np.load(DATA / "autoencoder_kl.npz") as file:
        return {k: jnp.asarray(v) if v.ndim else str(v) for k, v in file.items()}


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    return {
        name: latent.load(encoder_files.vae_folder(folder / name, config))
        for name, config in CASES.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_diffusers(name, data, vae):
    module, params = vae[name].module, vae[name].params
    image, z = data[f"{name}/image"], data[f"{name}/z"]

    def loss(params, z):
        variables = {"params": params}
        mean, logvar = module.apply(variables, image, method="encode")
        decoded = module.apply(variables, z, method="decode")
        outputs = {"mean": mean, "logvar": logvar, "decoded": decoded}
        return sum(jnp.sum(x**2) for x in outputs.values()), outputs

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (grads, grad_z), outputs = run(params, z)
    for key, found in outputs.items():
        np.testing.assert_allclose(found, data[f"{name}/{key}"], **VAE)
    wanted = data[f"{name}/grad_z"]
    atol = GRADIENT * np.abs(wanted).max()
    np.testing.assert_allclose(grad_z, wanted, rtol=0, atol=atol)
    norms = json.loads(data["grad_l2"])[name]
    found = {autoencoder.their_name(k): v for k, v in trees.flatten(grads).items()}
    assert found.keys() == norms.keys()
    atol = 1e-4 * max(norms.values())
    for key, leaf in found.items():
        norm = jnp.linalg.norm(leaf)
        np.testing.assert_allclose(norm, norms[key], rtol=1e-3, atol=atol, err_msg=key)


def test_tiles_are_cut_and_blended_as_diffusers_does(data, vae):
    found = vae["plain"].decode(data["tiled/z"], tile_size=16)
    np.testing.assert_allclose(found, data["tiled/decoded"], **VAE)
    # Not larger than a tile: as it is.
    small, whole = data["plain/z"], vae["plain"].decode(data["plain/z"])
    np.testing.assert_array_equal(vae["plain"].decode(small, tile_size=16), whole)
    by_one = vae["plain"].decode(small, one_by_one=True)
    np.testing.assert_allclose(by_one, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width"), [(8, 18), pytest.param(20, 34, marks=pytest.mark.slow)]
)
def test_tiles_of_what_is_local_are_the_whole(height, width):
    """Where tiles agree, blending changes nothing, whichever way the sides change."""
    x = jax.random.normal(jax.random.key(0), (1, height, width, 2))
    found = tiles.tiled(layers.downsample, x, tile=8, tile_out=4)
    np.testing.assert_allclose(found, layers.downsample(x), rtol=0, atol=1e-6)
    found = tiles.tiled(layers.upsample, x, tile=8, tile_out=16)
    np.testing.assert_allclose(found, layers.upsample(x), rtol=0, atol=1e-6)


def test_the_log_variance_is_clipped():
    moments = jnp.asarray([-50.0, -1.0, 25.0, 3.0]).reshape(1, 1, 1, 4)
    mean, logvar = autoencoder_kl.split(moments)
    assert mean.ravel().tolist() == [-50, -1] and logvar.ravel().tolist() == [20, 3]
    z = autoencoder_kl.draw(mean, jnp.zeros_like(mean), jnp.ones_like(mean))
    assert z.ravel().tolist() == [-49, 0]


def test_bfloat16_computes_near_and_answers_in_float32(data, vae):
    module = vae["plain"].module.clone(dtype="bfloat16", remat=True)
    variables = {"params": vae["plain"].params}
    decode = jax.jit(lambda z: module.apply(variables, z, method="decode"))
    found = decode(data["plain/z"])
    wanted = data["plain/decoded"]
    assert found.dtype == jnp.float32
    assert 1e-6 < np.abs(found - wanted).max() < 0.2
    assert jax.tree.all(jax.tree.map(lambda x: x.dtype == jnp.float32, variables))


def test_the_full_size_is_stable_diffusion_s():
    published = json.loads((DATA / "sd15_vae_shapes.json").read_text())
    module = AutoencoderKL()
    found = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    flat = trees.flatten(found["params"])
    assert sum(leaf.size for leaf in flat.values()) == 83_653_863
    shapes = {name: tuple(shape) for name, shape in published.items()}
    assert AutoencoderKL(**autoencoder.of_shapes(shapes)) == module
    wanted = {autoencoder.our_path(name): shape for name, shape in published.items()}
    assert len(wanted) == 248 and flat.keys() == wanted.keys()
    for path, leaf in flat.items():
        assert list(encoder_files.in_torch(path, leaf.shape)) == wanted[path], path


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda vae: vae.encode(np.zeros((2, 3, 16, 16), "f4")), "put channels last"),
        (lambda vae: vae.encode(np.zeros((16, 16, 3), "f4")), "put channels last"),
        (lambda vae: vae.encode(np.zeros((1, 8, 9, 3), "f4")), "multiples of 2"),
        (lambda vae: vae.encode(np.zeros((1, 8, 8, 3), "u1")), "divide bytes"),
        (lambda vae: vae.decode(np.zeros((1, 8, 8, 3), "f4")), "must be latents"),
        (
            lambda vae: vae.decode(np.zeros((1, 8, 8, 4), "f4"), tile_size=12),
            "tile_size=12: must be a multiple of 8",
        ),
    ],
)
def test_images_and_latents_that_do_not_fit(call, line, vae):
    with pytest.raises(ConfigError, match=line):
        call(vae["plain"])
