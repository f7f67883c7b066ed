"""GAN losses and R1 against Zyriix/GDD, by the gradients of all parameters.

Commit e9267e8afde48af83249bab05c245fb917340dfa (2025-03-13), run on a CPU in float32.
Analytic networks with random weights stand for the authors':

- generator: tanh(conv3x3(80 z / sqrt(1 + 80^2)))
- discriminator: two vectors of logits, tanh(conv3x3(x)) averaged over channels, and
  conv4x4(x), of stride 2, times the mean of the image. The authors' losses average over
  each vector and sum over vectors.

`gdd_losses.npz` holds inputs, weights and gradients in PyTorch's layout; gamma of the
penalty is 0.01 there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from loaders import DATA, from_torch

from kdiff_jax.losses import adversarial

FILE = dict(np.load(DATA / "gdd_losses.npz"))
X, Z = (jnp.asarray(np.moveaxis(FILE[name], 1, -1)) for name in "xz")
PARAMS = {
    key.removeprefix("param_"): jnp.asarray(from_torch(array))
    for key, array in FILE.items()
    if key.startswith("param_")
}
CLOSE = dict(rtol=1e-4, atol=1e-6)


def conv(params, name, x, stride):
    y = lax.conv_general_dilated(
        x,
        params[f"{name}.weight"],
        (stride, stride),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + params[f"{name}.bias"][None, None, None]


def generated(params):
    return jnp.tanh(conv(params, "g.c", 80 * Z / jnp.sqrt(1 + 80.0**2), 1))


def logits(params, x):
    """Two "examples", each with its own number of logits."""
    first = jnp.tanh(conv(params, "d.a", x, 1)).mean(axis=-1)
    second = conv(params, "d.b", x, 2) * x.mean(axis=(1, 2, 3), keepdims=True)
    return [first.reshape(1, -1), second.reshape(1, -1)]


def check(value, phase, role):
    got = jax.jit(jax.grad(value))(PARAMS)
    names = [key for key in FILE if key.startswith(f"{phase}/grad_{role}.")]
    assert len(names) == {"g": 2, "d": 4}[role]
    for name in names:
        expected = from_torch(FILE[name])
        np.testing.assert_allclose(got[name.split("grad_")[1]], expected, **CLOSE)


every_loss = pytest.mark.parametrize(
    ("theirs", "loss"), [("ns", "nonsaturating"), ("hinge", "hinge")]
)


@every_loss
def test_generator(theirs, loss):
    def value(params):
        fake = logits(params, generated(params))
        return sum(adversarial.generator(loss, part)[0] for part in fake)

    check(value, f"{theirs}/G", "g")


@every_loss
def test_discriminator(theirs, loss):
    def value(params):
        pairs = zip(logits(params, X), logits(params, generated(params)), strict=True)
        return sum(adversarial.discriminator(loss, r, f)[0] for r, f in pairs)

    check(value, f"{theirs}/D", "d")


@every_loss
def test_penalty(theirs, loss):
    del loss  # it is the same for both

    def value(params):
        def both(x):
            return jnp.concatenate(logits(params, x), axis=1)

        return 0.01 / 2 * adversarial.r1(both, X).mean()

    check(value, f"{theirs}/R1", "d")
