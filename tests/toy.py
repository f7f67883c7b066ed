"""Networks and batches small enough that a method runs in a second. No mocks."""

import jax
import jax.numpy as jnp

from kdiff_jax import domain
from kdiff_jax.method import Net, Numbers

NUM_CLASSES = 10
SHAPE = (4, 4, 1)
DIM = 16


def denoiser(width: int = 8) -> Net:
    """A two-layer network of (x_t, t, y) -> x0_hat; its levels have 2x2 and 1 pixel."""

    def init(key):
        first, second = jax.random.split(key)
        w = 0.1 * jax.random.normal(first, (DIM + 1 + NUM_CLASSES, width))
        return {"w": w, "v": 0.1 * jax.random.normal(second, (width, DIM))}

    def apply(params, x_t, t, y, *, dropout_keys=None, augment=None):
        del dropout_keys, augment  # it has neither
        return (hidden(params, x_t, t, y) @ params["v"]).reshape(x_t.shape)

    def encode(params, x_t, t, y):
        h = hidden(params, x_t, t, y)
        # Two: each more costs GDD's discriminator a head, and that its compile time.
        return [h.reshape(len(h), 2, 2, -1), h.reshape(len(h), 1, 1, -1)]

    def with_features(params, x_t, t, y, **keywords):
        x0_hat = apply(params, x_t, t, y, **keywords)
        return x0_hat, [x_t, *encode(params, x_t, t, y), x0_hat]

    def hidden(params, x_t, t, y):
        columns = [x_t.reshape(len(x_t), -1), t[:, None], jax.nn.one_hot(y, 10)]
        return jnp.tanh(jnp.concatenate(columns, axis=1) @ params["w"])

    return Net(init, apply, encode, SHAPE, NUM_CLASSES, with_features)


EMAS = {"ema": lambda updates: jnp.float32(0.9)}  # moving averages of an `Optim`
SHARE = domain.whole(NUM_CLASSES, (0.0, 1.0))  # of a process with times in [0, 1]


def numbers(method, num_steps: int = 100, share: domain.Share = SHARE) -> Numbers:
    """What differs between runs of one program, for one student."""
    return Numbers(share, jnp.int32(num_steps), dict(method.settings))


NETS = {"student": denoiser(), "teacher": denoiser()}


def batch(seed: int, size: int = 8):
    """Every entry that a method may read."""
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "x0": jnp.tanh(jax.random.normal(keys[0], (size, *SHAPE))),
        "z": jax.random.normal(keys[1], (size, *SHAPE)),
        "y": jax.random.randint(keys[2], (size,), 0, NUM_CLASSES),
        "y_gen": jax.random.randint(keys[3], (size,), 0, NUM_CLASSES),
    }
