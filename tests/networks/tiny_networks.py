"""One small network per family, with weights that hide nothing (none is zero)."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import networks

SHARED = dict(
    channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    num_classes=3,
    augment_dim=2,
    dropout=0.5,
)
FIELDS = {
    "adm_unet": SHARED | dict(emb_mult=2, channel_mult=(1, 8)),
    "ddpm_unet": SHARED,
    "dit": dict(channels=8, num_blocks=3, num_heads=2, num_classes=3, augment_dim=2)
    | dict(dropout=0.5, out_channels=3),
    "iddpm_unet": SHARED | dict(emb_channels=16),
    "song_unet": SHARED
    | dict(embedding="fourier", encoder="residual", taps=(1, 3, 3, 1)),
}
TRACES = collections.Counter()  # how often each family's `compiled` was traced


def module(name, **fields):
    return networks.make(name, **FIELDS[name] | fields)


@functools.cache
def inputs(batch=4, size=8):
    """x, c_noise, y, augment, dropout_keys."""
    keys = jax.random.split(jax.random.key(7), 3)
    return (
        jax.random.normal(keys[0], (batch, size, size, 3)),
        jnp.linspace(0.5, 8.0, batch),
        jnp.arange(batch) % 3,
        jax.random.normal(keys[1], (batch, 2)),
        jax.random.split(keys[2], batch),
    )


def shapes(network, size=8):
    """The tree of parameters as shapes and dtypes; nothing is computed."""
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    c_noise = jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), x, c_noise)["params"]


@functools.cache
def params(name):
    return draw(module(name))


def draw(network):
    """Kernels N(0, 1 / fan_in), scales 1 + 0.2 N, biases 0.1 N."""
    generator = np.random.default_rng(0)

    def leaf_of(path, leaf):
        noise = generator.standard_normal(leaf.shape).astype(np.float32)
        kind = path[-1].key
        if kind == "scale":
            return jnp.asarray(1 + 0.2 * noise)
        if kind == "kernel":
            return jnp.asarray(noise / math.sqrt(max(leaf.size / leaf.shape[-1], 1)))
        return jnp.asarray(0.1 * noise)

    return jax.tree_util.tree_map_with_path(leaf_of, shapes(network))


@functools.cache
def compiled(name, dtype="float32", remat=False, dropout=False):
    """jit of (params, x, c_noise, y, augment, keys) -> F."""
    network = module(name, dtype=dtype, remat=remat)

    def run(params, x, c_noise, y, augment, keys):
        TRACES[name] += 1
        return network.apply(
            {"params": params},
            x,
            c_noise,
            y,
            augment=augment,
            dropout_keys=keys if dropout else None,
        )

    return jax.jit(run)
