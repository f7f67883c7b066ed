"""ADA: its exact steps, its colors by hand, each image by its own key, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import REORDER

from kdiff_jax import rng
from kdiff_jax.augment import ada
from kdiff_jax.errors import ConfigError

KEYS = jax.random.split(jax.random.key(0), 16)
IMAGES = jax.random.uniform(jax.random.key(1), (16, 5, 4, 3), minval=-1.0)
augment, color = jax.jit(ada.augment), jax.jit(ada.color)


@pytest.mark.parametrize(
    ("prob", "r", "expected"),
    [
        (0.25, 0.7, 0.375),  # over-confident on real images
        (0.25, 0.5, 0.125),
        (0.25, -1.0, 0.125),  # by the same step, however far r is
        (0.25, 0.625, 0.25),
        (0.0, 0.0, 0.0),
        (0.95, 1.0, 1.0),
    ],
)
def test_probability_follows_the_sign_by_one_step(prob, r, expected):
    found = ada.next_prob(jnp.float32(prob), jnp.float32(r), target=0.625, num_steps=8)
    assert found == expected


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"ada_target=1.0: must lie in \[0, 1\)"):
        ada.check(1.0, 1)
    with pytest.raises(ConfigError, match="ada_steps=0: at least 1"):
        ada.check(0.6, 0)


def test_probability_zero_changes_nothing():
    np.testing.assert_array_equal(augment(IMAGES, KEYS, 0.0), IMAGES)


def test_color_is_the_product_of_the_papers_matrices():
    """In homogeneous coordinates, one matrix for each change, in the paper's order."""
    got = color(IMAGES, KEYS, 0.5)
    draws = {
        name: np.asarray(rng.bernoulli(KEYS, f"{name}_on", 0.5))
        for name in ("brightness", "contrast", "flip", "hue", "saturation")
    }
    for on in draws.values():
        assert 0 < on.sum() < len(on)
    normal = {n: np.asarray(rng.normal(KEYS, n, ())) for n in draws}
    flips = np.asarray(rng.bernoulli(KEYS, "flip", 0.5))
    angles = np.pi * (2 * np.asarray(rng.uniform(KEYS, "hue"), np.float64) - 1)
    u = np.ones(3) / np.sqrt(3)
    along, cross = np.outer(u, u), np.cross(u, np.eye(3)).T

    def affine(matrix, shift=0.0):
        whole = np.eye(4)
        whole[:3, :3], whole[:3, 3] = matrix, shift
        return whole

    for i, x in enumerate(np.asarray(IMAGES, np.float64)):
        b, c, s = (
            draws[n][i] * float(normal[n][i])
            for n in ("brightness", "contrast", "saturation")
        )
        angle = draws["hue"][i] * angles[i]
        turn = along + np.cos(angle) * (np.eye(3) - along) + np.sin(angle) * cross
        whole = affine(along + (np.eye(3) - along) * 2**s) @ affine(turn)
        whole @= affine(np.eye(3) - 2 * along * (draws["flip"][i] & flips[i]))
        whole @= affine(np.eye(3) * 2 ** (0.5 * c)) @ affine(np.eye(3), 0.2 * b)
        expected = x @ whole[:3, :3].T + whole[:3, 3]
        np.testing.assert_allclose(got[i], expected, rtol=2e-5, atol=1e-5)


def test_grey_images_have_neither_hue_nor_saturation():
    grey = IMAGES[..., :1]
    got = color(grey, KEYS, 1.0)
    b, c = (rng.normal(KEYS, name, ()) for name in ("brightness", "contrast"))
    flip = jnp.where(rng.bernoulli(KEYS, "flip", 0.5), -1, 1)
    scale = (flip * 2 ** (0.5 * c))[:, None, None, None]
    expected = scale * (grey + 0.2 * b[:, None, None, None])
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5)


def test_an_image_does_not_depend_on_its_neighbours():
    whole = augment(IMAGES, KEYS, 0.8)
    order = jnp.roll(jnp.arange(16), 3)
    turned = augment(IMAGES[order], KEYS[order], 0.8)
    np.testing.assert_allclose(turned, whole[order], **REORDER)
    moved = jnp.abs(whole - IMAGES).max(axis=(1, 2, 3)) > 0.01
    assert moved.all()  # 0.2^11 of one that stays


def test_the_gradient_is_that_of_the_linear_map():
    """<A x - A 0, w> = <x, A^T w> with one A for each image."""
    w = jax.random.normal(jax.random.key(2), IMAGES.shape)

    @jax.jit
    def transposed(x, w):
        return jax.vjp(lambda x: ada.augment(x, KEYS, 0.8), x)[1](w)[0]

    gradient = transposed(IMAGES, w)
    map_of = augment(IMAGES, KEYS, 0.8) - augment(0 * IMAGES, KEYS, 0.8)
    forward = (map_of * w).sum(axis=(1, 2, 3))
    backward = (IMAGES * gradient).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(forward, backward, rtol=1e-3, atol=1e-4)
    assert (jnp.abs(gradient).sum(axis=(1, 2, 3)) > 0).all()
