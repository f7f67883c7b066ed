"""Class rows of all families."""

import jax
import numpy as np
import pytest
import tiny_networks as tiny

from kdiff_jax.errors import CheckpointError
from kdiff_jax.networks import labels
from kdiff_jax.networks.labels import class_rows

each_network = pytest.mark.parametrize("name", sorted(tiny.FIELDS))


@each_network
def test_equal_rows_are_classes_that_a_network_treats_alike(name):
    params = jax.tree.map(np.array, tiny.params(name))
    rows = class_rows(params, 3)
    assert rows.shape[0] == 3 and rows.ndim == 2 and rows.dtype == np.float32
    assert len(np.unique(rows.round(4), axis=0)) == 3
    layer = next(n for n in params if n in labels.layers())
    kernel = params[layer]["kernel"]
    kernel[1] = kernel[0]
    found = class_rows(params, 3)
    np.testing.assert_array_equal(found[1], found[0])
    x, c_noise, _, augment, keys = tiny.inputs()
    run = tiny.compiled(name)
    F = [run(params, x, c_noise, np.full(4, y), augment, keys) for y in range(3)]
    np.testing.assert_array_equal(F[1], F[0])
    assert np.abs(F[2] - F[0]).max() > 1e-3
    np.testing.assert_array_equal(class_rows(params, 2), found[:2])


@each_network
def test_a_network_without_classes_is_refused(name):
    shapes = tiny.shapes(tiny.module(name, num_classes=0))
    with pytest.raises(CheckpointError, match="num_classes=3: .* 0 classes; take"):
        class_rows(shapes, 3)
    with pytest.raises(CheckpointError, match="num_classes=4: .* embedding of 3"):
        class_rows(tiny.params(name), 4)
