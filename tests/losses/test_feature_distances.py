"""Distances of features against NumPy, their zeros, their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import REORDER

from kdiff_jax.errors import ConfigError
from kdiff_jax.losses import features

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(8, 3, 2, 4)).astype(np.float32)
TEACHER = RNG.normal(size=(8, 3, 2, 6)).astype(np.float32)
ALL = [features.mse, features.attention, features.relational]


def test_mse_by_hand():
    found = features.mse(jnp.asarray(STUDENT), jnp.asarray(TEACHER[..., :4]))
    expected = ((STUDENT - TEACHER[..., :4]) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(found, expected, **REORDER)


def test_attention_by_hand():
    found = features.attention(jnp.asarray(STUDENT), jnp.asarray(TEACHER))
    for i in range(8):
        maps = [(h[i].astype(float) ** 2).mean(-1).ravel() for h in (STUDENT, TEACHER)]
        unit = [q / np.linalg.norm(q) for q in maps]
        expected = ((unit[0] - unit[1]) ** 2).mean()
        np.testing.assert_allclose(found[i], expected, **REORDER)


@pytest.mark.parametrize("group", [2, 4, 8])
def test_relational_by_hand(group):
    found = features.relational(jnp.asarray(STUDENT), jnp.asarray(TEACHER), group=group)
    for first in range(0, 8, group):
        parts = [
            h[first : first + group].reshape(group, -1).astype(float)
            for h in (STUDENT, TEACHER)
        ]
        matrices = []
        for x in parts:
            d = np.linalg.norm(x[:, None] - x[None], axis=-1)
            matrices.append(d / d[~np.eye(group, dtype=bool)].mean())
        error = np.abs(matrices[0] - matrices[1])
        huber = np.where(error < 1, error**2 / 2, error - 0.5)
        expected = huber.sum(1) / (group - 1)
        np.testing.assert_allclose(found[first : first + group], expected, **REORDER)


def test_relations_are_precise_far_from_the_origin():
    far = jnp.asarray(STUDENT) + 1000.0
    found = features.relational(far, jnp.asarray(TEACHER))
    expected = features.relational(jnp.asarray(STUDENT), jnp.asarray(TEACHER))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("distance", ALL)
def test_equal_features_have_no_distance_and_no_gradient(distance):
    x = jnp.asarray(STUDENT)
    value, grad = jax.value_and_grad(lambda a: distance(a, x).sum())(x)
    assert value == 0
    np.testing.assert_array_equal(grad, np.zeros_like(x))


@pytest.mark.parametrize("distance", ALL)
def test_no_gradient_flows_into_the_teacher_and_it_is_finite_at_zero(distance):
    x, zeros = jnp.asarray(STUDENT), jnp.zeros_like(STUDENT)
    grad = jax.grad(lambda b: distance(x, b).sum())(0.5 * x)
    np.testing.assert_array_equal(grad, zeros)
    for a, b in ((x, zeros), (zeros, x)):
        value, grad = jax.value_and_grad(lambda a, b: distance(a, b).sum())(a, b)
        assert jnp.isfinite(value) and jnp.isfinite(grad).all()


def test_groups_must_divide_the_batch():
    for group in (1, 3):
        with pytest.raises(ConfigError, match=f"relation_group={group}: must be"):
            features.relational(jnp.asarray(STUDENT), jnp.asarray(TEACHER), group=group)
