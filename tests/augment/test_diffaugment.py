"""DiffAugment: values by hand, ranges, its own draws for each image, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import REORDER

from kdiff_jax import rng
from kdiff_jax.augment import diffaugment
from kdiff_jax.augment.diffaugment import diffaugment as changed
from kdiff_jax.errors import ConfigError

KEYS = jax.random.split(jax.random.key(0), 256)
ALL = ("color", "translation", "cutout")
IMAGES = jax.random.uniform(jax.random.key(1), (256, 8, 16, 3), minval=-1.0)


def test_nothing_is_changed_unless_asked():
    assert changed(IMAGES, KEYS) is IMAGES
    with pytest.raises(ConfigError, match="'colour' is unknown; choose of color, tr"):
        changed(IMAGES, KEYS, ("colour",))


def test_color_is_the_formula():
    got = diffaugment.color(IMAGES, KEYS)
    draws = [rng.uniform(KEYS, n) for n in ("brightness", "saturation", "contrast")]
    for i in range(3):
        b, s, c = (float(draw[i]) for draw in draws)
        x = np.asarray(IMAGES[i], np.float64) + b - 0.5
        grey = x.mean(axis=-1, keepdims=True)
        x = (x - grey) * (2 * s) + grey
        x = (x - x.mean()) * (c + 0.5) + x.mean()
        np.testing.assert_allclose(got[i], x, **REORDER)


def test_translation_moves_by_whole_pixels_and_zeros_come_in():
    got = np.asarray(diffaugment.translation(IMAGES, KEYS))
    seen = set()
    for x, y in zip(np.asarray(IMAGES), got, strict=True):
        moves = [(i, j) for i in (-1, 0, 1) for j in (-2, -1, 0, 1, 2)]
        padded = np.pad(x, ((1, 1), (2, 2), (0, 0)))
        fits = [
            (i, j)
            for i, j in moves
            if (padded[1 + i : 9 + i, 2 + j : 18 + j] == y).all()
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 15  # every one of them occurs


def test_cutout_is_a_rectangle_with_its_centre_in_the_image():
    holes = np.asarray(diffaugment.cutout(jnp.ones((256, 8, 16, 1)), KEYS))[..., 0] == 0
    rows, columns = holes.any(axis=2), holes.any(axis=1)
    np.testing.assert_array_equal(holes, rows[:, :, None] & columns[:, None, :])
    # 4 of 8 rows about a centre in 0 .. 8, and 8 of 16 columns: all of them occur.
    starts = {(int(r.argmax()), int(r.sum())) for r in rows}
    assert starts == {(0, 2), (0, 3), *((i, 4) for i in range(5)), (5, 3), (6, 2)}
    assert columns.sum(axis=1).min() == 4 and columns.sum(axis=1).max() == 8


def test_an_image_does_not_depend_on_its_neighbours():
    whole = changed(IMAGES, KEYS, ALL)
    part = changed(IMAGES[5:7], KEYS[5:7], ALL)
    np.testing.assert_allclose(part, whole[5:7], **REORDER)


def test_the_gradient_passes():
    gradient = jax.grad(lambda x: changed(x, KEYS[:4], ALL).sum())(IMAGES[:4])
    assert (
        np.isfinite(gradient).all() and (np.abs(gradient).sum(axis=(1, 2, 3)) > 0).all()
    )
