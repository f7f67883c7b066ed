"""Autoencoders that are trained, as networks of a method."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdiff_jax import registry
from kdiff_jax.encoders.autoencoder_kl import AutoencoderKL
from kdiff_jax.errors import ConfigError
from kdiff_jax.method import Net

NETWORKS: dict[str, Callable[..., AutoencoderKL]] = {"autoencoder_kl": AutoencoderKL}
TRUNCATED = 0.87962566103423978  # deviation of a normal that is cut at -2 and 2
# Fields that images and the precision of a stage decide.
GIVEN = ("parent", "name", "in_channels", "out_channels", "dtype")


def names() -> list[str]:
    """The autoencoders that can be trained."""
    return list(NETWORKS)


def make_function(name: str) -> Callable[..., AutoencoderKL]:
    """The module of this name; its keywords are its fields.

    Raises:
        ConfigError: If there is none.
    """
    return registry.entry(NETWORKS, name, what="network")


def make(
    name: str, *, image_shape: tuple[int, ...], precision: str, **fields
) -> AutoencoderKL:
    """The autoencoder of images of this shape, as a Flax module.

    Args:
        name: One of `names`.
        image_shape: (H, W, C).
        precision: Type that it computes in, "float32" or "bfloat16".
        **fields: Other fields of the module.

    Raises:
        ConfigError: If the fields make no network, or it does not fit the images.
    """
    height, width, channels = image_shape
    ends = dict(in_channels=channels, out_channels=channels)
    made: Any = make_function(name)(**fields, **ends, dtype=precision)
    if wrong := [width for width in made.widths if width % made.num_groups]:
        raise ConfigError(
            f"num_groups={made.num_groups}: does not divide the width {wrong[0]}; take"
            f" a divisor of all of widths={list(made.widths)}"
        )
    if height % made.factor or width % made.factor:
        raise ConfigError(
            f"widths={list(made.widths)}: {len(made.widths)} levels need images with"
            f" sides that are multiples of {made.factor}, and these are {height}x"
            f"{width}; give fewer widths, or set data.size"
        )
    return made


def net(module: AutoencoderKL, image_shape: tuple[int, ...]) -> Net:
    """An autoencoder as a method's network.

    Its `encode` is (params, images) -> (mean, log-variance) of the latents, and its
    `apply` (params, latents) -> images; see `AutoencoderKL`.
    """
    example = jnp.zeros((1, *image_shape), jnp.float32)

    def init(key: jax.Array) -> Any:
        shapes = jax.eval_shape(module.init, key, example)["params"]
        return _first(shapes, key)

    def encode(params, images) -> Any:
        return module.apply({"params": params}, images, method="encode")

    def decode(params, z) -> Any:
        return module.apply({"params": params}, z, method="decode")

    return Net(
        init, decode, encode, image_shape=image_shape, precision=str(module.dtype)
    )


def divided(module: AutoencoderKL, params: Any, std: float) -> Any:
    """Parameters, on the host, whose latents are those of `params` divided by `std`.

    What is decoded of them, and the noise of the latents relative to their means, stay.
    """
    # (module, its layer) that makes the moments, and that reads latents.
    out = ("quant_conv",) if module.quant_conv else ("encoder", "conv_out")
    into = ("post_quant_conv",) if module.post_quant_conv else ("decoder", "conv_in")
    means = np.arange(2 * module.latent_channels) < module.latent_channels
    scale = np.where(means, 1 / std, 1).astype(np.float32)
    shift = np.where(means, 0, -2 * np.log(std)).astype(np.float32)  # of log-variances

    def moved(path, leaf):
        *place, kind = (key.key for key in path)
        if tuple(place) == out:
            return leaf * scale + (shift if kind == "bias" else 0)
        if tuple(place) == into and kind == "kernel":
            return leaf * np.float32(std)
        return leaf

    return jax.tree_util.tree_map_with_path(moved, jax.device_get(params))


def _first(shapes: Any, key: jax.Array) -> Any:
    """Parameters as Flax begins: kernels truncated normal by their fan-in.

    All are one draw, as a draw for each leaf takes a second to compile.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    sizes = [math.prod(leaf.shape) for _, leaf in leaves]
    draws = jax.random.truncated_normal(key, -2, 2, (sum(sizes),)) / TRUNCATED
    found, begin = [], 0
    for (path, leaf), size in zip(leaves, sizes, strict=True):
        drawn = draws[begin : begin + size].reshape(leaf.shape)
        begin += size
        fan_in = math.prod(leaf.shape[:-1])
        of_kind = {
            "kernel": drawn / math.sqrt(fan_in),
            "scale": jnp.ones_like(drawn),
            "bias": jnp.zeros_like(drawn),
        }
        found.append(of_kind[path[-1].key])
    return jax.tree.unflatten(tree, found)
