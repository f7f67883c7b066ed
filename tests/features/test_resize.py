"""Resizes against PIL, torch and clean-fid.

Data: `resizes` has what clean-fid 0.1.35 and its libraries (torch 2.13, PIL) give for
images of three sizes: every 7th pixel.
"""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from kdiff_jax.errors import ConfigError
from kdiff_jax.features import frozen
from kdiff_jax.features.resize import matrix, resize, short_side

DATA = pathlib.Path(__file__).parents[1] / "parity/data/resizes.npz"
FLOATS = dict(rtol=0, atol=2e-3)  # of 255, the fixtures' own tolerance over a hundred
LEVEL = dict(rtol=0, atol=1)  # of bytes
SIZES = ("28x28", "96x64", "256x192")


@pytest.fixture(scope="module")
def data():
    with np.load(DATA) as file:
        return dict(file)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("key", "side", "name"),
    [
        ("clean299", 299, "bicubic"),
        ("clean_lanczos256", 256, "lanczos"),
        ("legacy_pytorch299", 299, "torch"),
        ("torch_bicubic_antialias_224", 224, "bicubic"),
    ],
)
def test_floats(size, key, side, name, data):
    images = jnp.asarray(data[f"{size}/image"][None], jnp.float32)
    found = np.asarray(resize(images, (side, side), name))[0, ::7, ::7]
    wanted = data[f"{size}/{key}_every7"]
    if key.startswith("clean"):
        found = found.clip(0, 255)
    if wanted.max() < 3:
        found = found / 255
    np.testing.assert_allclose(found, wanted, **FLOATS)


@pytest.mark.parametrize("size", SIZES)
def test_bytes(size, data):
    images = jnp.asarray(data[f"{size}/image"][None], jnp.float32)
    for key, side in (("pil_bicubic_uint8_299", 299), ("pil_224_square", 224)):
        found = resize(images, (side, side), "bicubic", whole=True)[0, ::7, ::7]
        wanted = data[f"{size}/{key}_every7"].astype(np.float32)
        np.testing.assert_allclose(found, wanted, **LEVEL)
        assert np.abs(found - wanted).mean() < 0.01  # nearly all of them are equal
    found = short_side(images, 224, "bicubic", whole=True)[0, ::7, ::7]
    wanted = data[f"{size}/clip_short_side_224_crop_every7"].astype(np.float32)
    np.testing.assert_allclose(found, wanted, **LEVEL)


@pytest.mark.parametrize("name", ["box", "bilinear", "bicubic", "lanczos"])
def test_filters_are_those_of_pil(name):
    image = np.random.default_rng(0).uniform(0, 255, (13, 40)).astype(np.float32)
    wanted = Image.fromarray(image).resize((23, 11), Image.Resampling[name.upper()])
    found = resize(jnp.asarray(image)[None, ..., None], (11, 23), name)[0, ..., 0]
    np.testing.assert_allclose(found, np.asarray(wanted), **FLOATS)


def test_same_size_is_the_same_image():
    image = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, 9, 12, 3)), "f4")
    for name in ("tf1", "torch", "box", "bilinear", "bicubic", "lanczos"):
        np.testing.assert_allclose(resize(image, (9, 12), name), image, rtol=1e-6)


def test_tf1_by_hand():
    wanted = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]]
    np.testing.assert_array_equal(matrix("tf1", 3, 6), wanted)


def test_unknown_resize_is_refused():
    with pytest.raises(ConfigError, match="resize='cubic': unknown; choose one of tf1"):
        resize(jnp.zeros((1, 4, 4, 3)), (2, 2), "cubic")


def test_bilinear_is_that_of_frozen_networks():
    image = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (1, 9, 9, 3)), "f4")
    np.testing.assert_allclose(
        resize(image, (14, 14), "torch"), frozen.resize(image, 14), rtol=1e-5
    )
