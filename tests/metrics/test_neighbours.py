"""Nearest training images of a few samples, in one pass."""

import numpy as np
import pytest

from kdiff_jax.errors import NumericsError
from kdiff_jax.metrics import manifold, neighbours


@pytest.mark.parametrize("size", [1, 7, 50])
def test_blocks_of_any_size_give_what_all_distances_give(size):
    draw = np.random.default_rng(0)
    f, of = draw.normal(size=(5, 3)), draw.normal(size=(50, 3))
    blocks = (of[i : i + size] for i in range(0, 50, size))
    found = neighbours.nearest(f, blocks, 4)
    all_of_them = np.linalg.norm(f[:, None] - of, axis=2)
    np.testing.assert_array_equal(found.places, np.argsort(all_of_them)[:, :4])
    np.testing.assert_allclose(found.distances, np.sort(all_of_them)[:, :4])
    places, distances = manifold.nearest(f, of)
    np.testing.assert_array_equal(found.places[:, 0], places)
    np.testing.assert_allclose(found.distances[:, 0], distances, rtol=1e-4)


def test_a_copy_is_at_zero_and_an_image_is_no_neighbour_of_itself():
    of = 1e4 + np.random.default_rng(0).normal(size=(9, 40))
    of[7] = of[2]  # twice in the set
    blocks = [of[:4], of[4:]]
    found = neighbours.nearest(of[[2, 5]], blocks, 2)
    assert found.places[:, 0].tolist() == [2, 5] and found.places[0, 1] == 7
    assert found.distances[:, 0].tolist() == [0, 0] and found.distances[0, 1] == 0
    own = neighbours.nearest(of[[2, 5, 5]], blocks, 1, own=np.array([2, 5, -1]))
    assert own.places[:, 0].tolist()[::2] == [7, 5] and own.distances[1, 0] > 0


def test_of_a_small_set_there_are_fewer():
    of = np.arange(3.0)[:, None]
    assert neighbours.nearest(of[:1], [of], 5).places.tolist() == [[0, 1, 2]]
    own = neighbours.nearest(of, [of], 5, own=np.arange(3))
    assert own.places.tolist() == [[1, 2], [0, 2], [1, 0]]
    with pytest.raises(ValueError, match="sizes must agree"):
        neighbours.nearest(of, [np.zeros((2, 2))], 1)
    with pytest.raises(NumericsError, match="1 of 3 rows hold NaN"):
        neighbours.nearest(of, [np.array([[0.0], [np.nan], [1.0]])], 1)
