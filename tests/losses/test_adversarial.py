"""Adversarial losses by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerance import IDENTITY

from kdiff_jax.errors import ConfigError
from kdiff_jax.losses import adversarial

REAL = jnp.array([[2.0, -1.0], [0.0, 0.5]])
FAKE = jnp.array([[-3.0, 1.0], [0.0, 0.0]])
LOG2 = np.log(2)


def test_generator_by_hand():
    # softplus(3) = 3.048587, softplus(-1) = .313262
    got = adversarial.generator("nonsaturating", FAKE)
    np.testing.assert_allclose(got, [(3.0485874 + 0.3132617) / 2, LOG2], **IDENTITY)
    got = adversarial.generator("hinge", FAKE)
    np.testing.assert_allclose(got, [1, 0], **IDENTITY)


def test_discriminator_by_hand():
    # softplus(-2) = .126928, softplus(1) = 1.313262, softplus(-3) = .048587,
    # softplus(-.5) = .474077
    got = adversarial.discriminator("nonsaturating", REAL, FAKE)
    first = (0.1269280 + 1.3132617) / 2 + (0.0485874 + 1.3132617) / 2
    second = (LOG2 + 0.4740770) / 2 + LOG2
    np.testing.assert_allclose(got, [first, second], **IDENTITY)
    # real: (0 + 2) / 2, (1 + .5) / 2; fake: (0 + 2) / 2, (1 + 1) / 2
    got = adversarial.discriminator("hinge", REAL, FAKE)
    np.testing.assert_allclose(got, [2, 1.75], **IDENTITY)


@pytest.mark.parametrize("name", adversarial.LOSSES)
def test_an_example_may_have_one_logit_or_a_map(name):
    one, maps = FAKE[:, 0], FAKE.reshape(2, 1, 2, 1)
    assert adversarial.generator(name, one).shape == (2,)
    got = adversarial.discriminator(name, maps, maps)
    np.testing.assert_array_equal(got, adversarial.discriminator(name, FAKE, FAKE))


@pytest.mark.parametrize("name", adversarial.LOSSES)
def test_both_players_pull_at_fakes(name):
    down = jax.grad(lambda x: adversarial.discriminator(name, REAL, x).sum())(FAKE)
    up = jax.grad(lambda x: adversarial.generator(name, x).sum())(FAKE)
    assert (down[1] > 0).all() and (up < 0).all()


def test_losses_are_finite_for_any_logit():
    far = jnp.array([[-1e30], [1e30]])
    for name in adversarial.LOSSES:
        assert jnp.isfinite(adversarial.generator(name, far)).all()
        assert jnp.isfinite(adversarial.discriminator(name, far, far)).all()


def test_r1_by_hand():
    x = jnp.array([[[1.0, 2.0]], [[3.0, -1.0]]])

    def logits(
        x,
    ):  # two logits: x0 x1 and 3 x0; the gradient of the sum is (x1 + 3, x0)
        return jnp.stack([x[:, 0, 0] * x[:, 0, 1], 3 * x[:, 0, 0]], axis=1)

    np.testing.assert_allclose(adversarial.r1(logits, x), [26, 13], **IDENTITY)


def test_r1_sees_the_rest_of_the_batch():
    # x_b minus the mean of two: the sum of the logits does not move at all
    centred = adversarial.r1(
        lambda x: x - x.mean(axis=0, keepdims=True), jnp.array([[1.0], [2.0]])
    )
    np.testing.assert_allclose(centred, [0, 0], **IDENTITY)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="nonsaturating, hinge"):
        adversarial.generator("wasserstein", FAKE)
    with pytest.raises(ConfigError, match="nonsaturating, hinge"):
        adversarial.discriminator("wasserstein", REAL, FAKE)
