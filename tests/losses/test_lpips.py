"""LPIPS against the reference implementation, and files that do not fit.

Data: `lpips_vgg` of the package lpips (BSD-2) under PyTorch 2.13.0 on a CPU in float32,
random weights by name; its own noise (another order of the same arithmetic) is 5e-6.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import lpips_files
import numpy as np
import pytest
from lpips_files import head_arrays, vgg_arrays
from tolerance import LOSS, REORDER

from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.features import lpips

DATA = pathlib.Path(__file__).parents[1] / "parity/data"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    weights, heads = lpips_files.write(tmp_path_factory.mktemp("lpips"))
    yield weights, heads
    weights.unlink()


def test_vgg_is_the_reference(files):
    with np.load(DATA / "lpips_vgg.npz") as file:
        data = {k: np.moveaxis(v, 1, -1) if v.ndim == 4 else v for k, v in file.items()}
    params = lpips.load("vgg", *files)
    distance = functools.partial(lpips.distance, net="vgg", resize=None)
    x, target = jnp.asarray(data["in0"]), jnp.asarray(data["in1"])

    @jax.jit
    def evaluate(params, x, target):
        dist, back = jax.vjp(lambda x: distance(params, x, target), x)
        by_layer = lpips.layers("vgg", params, x, target, resize=None)
        return dist, by_layer, back(jnp.ones_like(dist))[0]

    dist, by_layer, gradient = evaluate(params, x, target)
    np.testing.assert_allclose(dist, data["dist"], **LOSS)
    np.testing.assert_allclose(by_layer, data["layers"], **LOSS)
    wanted = data["grad_in0"]
    atol = 1e-4 * np.abs(wanted).max()
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=atol)


def test_small_images_are_resized_first(files):
    params = lpips.load("vgg", *files)
    distance = functools.partial(lpips.distance, net="vgg", resize=16)
    plain = functools.partial(lpips.distance, net="vgg", resize=None)
    x, target = jax.random.uniform(jax.random.key(0), (2, 1, 8, 8, 3))
    # Twice the size: each output is 3/4 of the nearest and 1/4 of the next pixel.
    matrix = np.zeros((16, 8), np.float32)
    for i in range(16):
        matrix[i, i // 2] += 0.75
        matrix[i, np.clip(i // 2 + (1 if i % 2 else -1), 0, 7)] += 0.25
    up = [np.einsum("ih,bhwc,jw->bijc", matrix, a, matrix) for a in (x, target)]
    got = distance(params, x, target)
    np.testing.assert_allclose(got, plain(params, *map(jnp.asarray, up)), **LOSS)


def test_where_nothing_is_seen_there_is_no_gradient_and_no_nan():
    unit = lpips._unit  # after a ReLU, whose own gradient would hide a NaN
    x = jnp.array([[[[0.0, 0.0], [3.0, 4.0]]]])
    value, back = jax.vjp(unit, x)
    np.testing.assert_allclose(value, [[[[0, 0], [0.6, 0.8]]]], **REORDER)
    gradient = back(jnp.array([[[[1.0, 1.0], [1.0, 0.0]]]]))[0]
    np.testing.assert_allclose(gradient, [[[[0, 0], [0.128, -0.096]]]], **REORDER)


def test_files_that_do_not_fit_are_refused(files, tmp_path):
    weights, heads = files
    path = tmp_path / "w.npz"

    def refused(match, *, net="vgg", weights=weights, heads=heads):
        with pytest.raises(CheckpointError, match=match) as caught:
            lpips.load(net, weights, heads)
        assert "\n" not in str(caught.value) and caught.value.exit_code == 4

    refused("weights=.*w.npz: no such file; give torchvision's vgg16-397", weights=path)
    refused("heads=.*w.npz: no such file; give weights/v0.1/vgg.pth of", heads=path)
    refused("not AlexNet: features.3.bias missing.* and 27 more", net="alex")
    path.write_bytes(b"not an archive")
    refused("not a readable .npz", weights=path)
    np.savez(
        path, **{k: v for k, v in vgg_arrays().items() if k != "features.5.weight"}
    )
    refused("features.5.weight missing; give", weights=path)
    # VGG19 has more.
    np.savez(path, **vgg_arrays(), **{"features.30.bias": np.zeros(512)})
    refused(r"not VGG16: features\.30\.bias unknown", weights=path)
    np.savez(path, **head_arrays("alex"))
    refused(r"not LPIPS heads of 'vgg': lin1.model.1.weight has shape", heads=path)


def test_wrong_usage_is_refused(files):
    with pytest.raises(
        ConfigError, match="net='vgg19': unknown; choose one of alex, squeeze, vgg"
    ):
        lpips.load("vgg19", *files)
    with pytest.raises(ConfigError, match="weights=None: LPIPS needs its file; give"):
        lpips.load("vgg", None, files[1])
    params = lpips.load("vgg", *files)
    distance = functools.partial(lpips.distance, net="vgg", resize=None)
    small = jnp.zeros((1, 15, 16, 3))
    with pytest.raises(ConfigError, match="too small for VGG16; set resize=224"):
        distance(params, small, small)
    with pytest.raises(ConfigError, match="LPIPS reads RGB"):
        lpips.layers("vgg", params, small[..., :1], small[..., :1])
