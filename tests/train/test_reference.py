"""Images that are not square are compared as they are; of others squares are cut."""

import numpy as np
import pytest

from kdiff_jax.errors import DataError
from kdiff_jax.metrics import features
from kdiff_jax.train import reference


def test_the_size_is_that_of_the_model(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "wide.npz"
    images = rng.integers(0, 256, (30, 8, 16, 1), np.uint8)
    np.savez(path, images=images)
    pixels = features.make("pixels")
    mu, sigma = reference.of(str(path), path, pixels, (8, 16, 1))
    np.testing.assert_allclose(mu, images.reshape(30, -1).mean(0) / 127.5 - 1)
    assert sigma.shape == (128, 128)
    middle, _ = reference.of(str(path), path, pixels, (8, 8, 1))
    np.testing.assert_allclose(middle, mu.reshape(8, 16)[:, 4:12].ravel())
    with pytest.raises(DataError, match=r"images of \[8, 16, 1\], and .* \[16, 8, 1\]"):
        reference.of(str(path), path, pixels, (16, 8, 1))
