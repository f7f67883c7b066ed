"""The augmentation: identity, exact cases, labels, chances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import REORDER

from kdiff_jax.augment import geometry

KEYS = jax.random.split(jax.random.key(0), 8)
IMAGES = jax.random.uniform(jax.random.key(1), (8, 9, 9, 2))
EYE = jnp.eye(2)


def test_probability_zero_changes_nothing():
    images, label = geometry.augment(IMAGES, KEYS, 0.0)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(label, np.zeros((8, geometry.AUGMENT_DIM)))


def test_resampling_by_the_identity_is_exact():
    np.testing.assert_array_equal(
        geometry.resample(IMAGES[0], EYE, jnp.zeros(2)), IMAGES[0]
    )


def test_a_shift_by_whole_pixels_moves_and_mirrors():
    # output (x, y) reads input (x + 2, y - 1); row -1 mirrors to 1, column 9 to 7
    got = geometry.resample(IMAGES[0], EYE, jnp.array([2.0, -1.0]))
    rows = [1, 0, 1, 2, 3, 4, 5, 6, 7]
    columns = [2, 3, 4, 5, 6, 7, 8, 7, 6]
    np.testing.assert_allclose(got, IMAGES[0][jnp.array(rows)][:, jnp.array(columns)])


def test_a_quarter_turn_is_rot90():
    # output (x, y) reads input (-y, x): the image turned against the clock by rot90
    quarter = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    got = geometry.resample(IMAGES[0], quarter, jnp.zeros(2))
    np.testing.assert_allclose(got, jnp.rot90(IMAGES[0], 1), **REORDER)


def test_cubic_interpolation_reproduces_quadratics():
    y, x = jnp.meshgrid(jnp.arange(9.0), jnp.arange(9.0), indexing="ij")
    image = (0.3 * x**2 - 0.2 * x * y + y)[:, :, None]
    got = geometry.resample(image, EYE, jnp.array([0.3, 0.6]))
    x, y = x + 0.3, y + 0.6
    expected = 0.3 * x**2 - 0.2 * x * y + y
    np.testing.assert_allclose(got[2:6, 2:6, 0], expected[2:6, 2:6], rtol=1e-4)


def test_label_and_image_tell_the_same_story():
    """With one transform at a time, the label alone reproduces the image."""
    images, label = geometry.augment(IMAGES, KEYS, 1.0)
    for x0, got, row in zip(IMAGES, images, np.asarray(label, np.float64), strict=True):
        xflip, yflip, scale, cos, sin, aniso_x, aniso_y, shift_x, shift_y = row
        x0 = x0[:, ::-1] if xflip else x0
        x0 = x0[::-1] if yflip else x0
        turn = np.array([[cos + 1, -sin], [sin, cos + 1]])
        aniso = np.hypot(aniso_x, aniso_y)
        c, s = aniso_x / aniso, aniso_y / aniso
        back = np.array([[c, -s], [s, c]])
        errors = []
        # The paper's label does not tell (w, r) from (-w, r + pi).
        for w in (aniso, -aniso):
            stretch = np.diag([2 ** (-0.2 * w), 2 ** (0.2 * w)])
            matrix = turn @ back.T @ stretch @ back / 2 ** (0.2 * scale)
            offset = -matrix @ (0.125 * 9 * np.array([shift_x, shift_y]))
            expected = geometry.resample(
                x0, jnp.asarray(matrix, jnp.float32), jnp.asarray(offset, jnp.float32)
            )
            errors.append(np.abs(got - expected).max())
        assert min(errors) < 2e-4 < max(errors)


@pytest.mark.parametrize("prob", [0.12, 1.0])
def test_chances(prob):
    keys = jax.random.split(jax.random.key(2), 4000)
    images = jnp.zeros((4000, 2, 2, 1))
    _, label = geometry.augment(images, keys, prob)
    rates = np.mean(np.asarray(label) != 0, axis=0)
    # flips are coins; standard error at most .008
    np.testing.assert_allclose(rates[:2], prob / 2, atol=0.03)
    np.testing.assert_allclose(rates[2:], prob, atol=0.03)
    _, label = geometry.augment(images, keys, prob, xflip_prob=1.0)
    np.testing.assert_allclose(np.mean(label[:, 0]), 0.5, atol=0.03)


def test_an_image_depends_on_its_own_key_alone():
    order = jnp.array([3, 0, 7])
    whole, label = geometry.augment(IMAGES, KEYS, 0.8)
    part, part_label = geometry.augment(IMAGES[order], KEYS[order], 0.8)
    np.testing.assert_allclose(part, whole[order], **REORDER)
    np.testing.assert_allclose(part_label, label[order], **REORDER)


def test_random_flip():
    keys = jax.random.split(jax.random.key(2), 2000)
    ramp = jnp.broadcast_to(jnp.arange(3.0)[None, None, :, None], (2000, 1, 3, 1))
    flipped = geometry.random_flip(ramp, keys)
    first = np.asarray(flipped[:, 0, 0, 0])
    assert set(first) == {0.0, 2.0}
    np.testing.assert_allclose(np.mean(first == 2), 0.5, atol=0.05)
    np.testing.assert_array_equal(geometry.random_flip(ramp, keys, 0.0), ramp)
    np.testing.assert_array_equal(
        geometry.random_flip(ramp, keys, 1.0), ramp[:, :, ::-1]
    )
