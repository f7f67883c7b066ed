"""LPIPS v0.1: how different two images look, learned from people's judgements.

It stands among the networks, not the losses, so that methods can use it: it is a frozen
network with 1x1 heads. Backbone and heads come from files.

Source: Zhang et al. 2018, arXiv:1801.03924, Eq. 1; constants of the released code.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from kdiff_jax import features, registry
from kdiff_jax.errors import ConfigError
from kdiff_jax.features import COMPARED, Backbone, frozen
from kdiff_jax.types import Params

EPS = 1e-10
HEADS = (
    "weights/v0.1/{net}.pth of LPIPS (github.com/richzhang/PerceptualSimilarity, in"
    " lpips/)"
)


def backbone(net: str) -> Backbone:
    """What the file of a network says for LPIPS.

    Raises:
        ConfigError: If there is no such network.
    """
    found = registry.module(features.__name__, net, what="net", defines=COMPARED)
    return found.BACKBONE


def load(
    net: str = "vgg",
    weights: str | os.PathLike | None = None,
    heads: str | os.PathLike | None = None,
) -> Params:
    """The parameters of `distance`.

    Args:
        net: "vgg" (for losses), "alex" or "squeeze".
        weights: The backbone's file, with torchvision's names.
        heads: The file of the heads, of the public layout (lin0.model.1.weight, ...),
            or an .npz of several with the net in front (vgg/lin0.model.1.weight).

    Raises:
        ConfigError: If there is no such net, or a file is not named.
        CheckpointError: If a file is missing, damaged, or of another network.
    """
    check_files(net, weights, heads)
    module, channels, network, wanted, ignored = backbone(net)
    return {
        "backbone": frozen.load(
            module,
            weights,  # type: ignore[arg-type]  # None is refused above
            network=network,
            wanted=wanted,
            ignored=ignored,
        ),
        "heads": _load_heads(net, heads, channels),
    }


def check_files(
    net: str, weights: str | os.PathLike | None, heads: str | os.PathLike | None
) -> None:
    """Refuses a net that is none, or that lacks a file; for arguments see `load`.

    Raises:
        ConfigError: Names the argument, and the file to give.
    """
    for argument, path, wanted in (
        ("weights", weights, backbone(net).wanted),
        ("heads", heads, HEADS.format(net=net)),
    ):
        if path is None:
            raise ConfigError(f"{argument}=None: LPIPS needs its file; give {wanted}")


def shapes(net: str = "vgg") -> Params:
    """Shapes of what `load` returns, without the files."""
    module, channels, *_ = backbone(net)
    heads = [jax.ShapeDtypeStruct((n,), jnp.float32) for n in channels]
    return {"backbone": frozen.shapes(module), "heads": heads}


def distance(
    params: Params,
    x: Float[Array, "B H W C"],
    target: Float[Array, "B H W C"],
    *,
    net: str = "vgg",
    resize: int | None = frozen.SIZE,
    dtype: str = "float32",
) -> Float[Array, " B"]:
    """The distance of images to their targets, differentiable.

    Args:
        params: What `load` returns; as an argument of what is compiled, or they become
            60 MB of constants.
        x: Images in [-1, 1], RGB.
        target: Images as many.
        net: See `load`.
        resize: Side to which images are resized first, as distillation of 32 and 64
            pixels does; None takes them as they are.
        dtype: Type of the backbone's activations and products; the distance between
            features is float32.
    """
    return layers(net, params, x, target, resize, dtype).sum(axis=1)


def layers(
    net: str,
    params: Params,
    x: Float[Array, "B H W C"],
    target: Float[Array, "B H W C"],
    resize: int | None = frozen.SIZE,
    dtype: str = "float32",
) -> Float[Array, "B L"]:
    """What each layer adds to the distance; see `distance`.

    Raises:
        ConfigError: If the images are not RGB, or too small for the network.
    """
    frozen.check_rgb(x, "LPIPS")
    under = backbone(net)

    def outputs(images):
        images = frozen.normalise(images, frozen.IMAGENET_MEAN, frozen.IMAGENET_STD)
        if resize is not None:
            images = frozen.resize(images, resize)
        network = under.module.clone(dtype=dtype)
        found: Any = network.apply({"params": params["backbone"]}, images)
        if any(feature.size == 0 for feature in found):
            raise ConfigError(
                f"images={x.shape}: too small for {under.network}; set resize=224"
            )
        return [_unit(feature.astype(jnp.float32)) for feature in found]

    return jnp.stack(
        [
            ((a - b) ** 2 * head[None, None, None]).sum(axis=-1).mean(axis=(1, 2))
            for a, b, head in zip(
                outputs(x), outputs(target), params["heads"], strict=True
            )
        ],
        axis=1,
    )


def _unit(x):
    """Length 1 over the channels. Where all are 0 the gradient is 0, not NaN."""
    square = (x**2).sum(axis=-1, keepdims=True)
    length = jnp.sqrt(jnp.where(square > 0, square, 1))
    return jnp.where(square > 0, x / (length + EPS), 0)


def _load_heads(net, path, channels):
    wanted = HEADS.format(net=net)
    found = frozen.read("heads", path, wanted)
    if any(name.startswith(f"{net}/") for name in found):
        found = {
            name.removeprefix(f"{net}/"): array
            for name, array in found.items()
            if name.startswith(f"{net}/")
        }
    # Newer files hold each head twice, as `lin0` and as `lins.0`.
    found = {k: array for k, array in found.items() if not k.startswith("lins.")}
    shapes = {f"lin{i}.model.1.weight": (1, c, 1, 1) for i, c in enumerate(channels)}
    frozen.check(f"heads={path}: not LPIPS heads of {net!r}", found, shapes, wanted)
    return [jnp.asarray(found[name].read(), jnp.float32).reshape(-1) for name in shapes]
