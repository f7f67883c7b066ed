"""One module per denoising network; the module's name is the network's name.

All are called alike, on images and what the family's embedding reads (`c_noise`):

    module.apply({"params": p}, x, c_noise, y, augment=None, guidance=None,
                 dropout_keys=None) -> F

| name               | network                                | c_noise                |
|--------------------|----------------------------------------|------------------------|
| `ddpm_unet`        | Ho et al. 2020, diffusers' UNet2DModel | index 0 .. 999         |
| `iddpm_unet`       | Salimans & Ho 2022, "unet_iddpm"       | logsnr in [-20, 20]    |
| `song_unet`        | DDPM++ and NCSN++, Karras et al. 2022  | c_noise of its Table 1 |
| `adm_unet`         | Dhariwal & Nichol's, in Karras et al.  | c_noise of its Table 1 |
| `unet2d_condition` | Stable Diffusion 1.x, 2.x and XL       | index 0 .. 999         |
| `dit`              | Peebles & Xie 2022; SiT (Ma 2024)      | index; SiT t in [0, 1] |
| `mlp`              | a few layers, for points of the plane  | c_noise of EDM         |

`y` is i32[B]; None, or -1, is no label. With `cond_dim` it is f32[B, cond_dim], and
zeros are none; or a text, f32[B, L, cond_dim], see `unet2d_condition`. `guidance` is
f32[B], 1 for none; a network reads it that was made to (`reads_guidance`). Dropout is
active if and only if one typed key per example is given, `dropout_keys`.
`module.apply(..., method="encode")` returns the features of the encoder in place of F,
`method="with_features"` F and all features.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdiff_jax import arguments, registry
from kdiff_jax.types import Params

FLAX = ("parent", "name")  # parameters of every module, which Flax itself fills in
GUIDANCE = "guidance_embedding"  # layer that reads the strength of guidance
BUFFERS = (jax.tree_util.DictKey("freqs"),)  # loaded, saved, never trained


def names() -> list[str]:
    """The networks that exist: the modules of this package.

    Examples:
        >>> from kdiff_jax import networks
        >>> "song_unet" in networks.names()
        True
    """
    return registry.names(__name__)


def make(name: str, **keywords) -> nn.Module:
    """The network `name`, one of `names()`, as a Flax module.

    Args:
        name: A file of this folder.
        **keywords: Fields of its module.

    Raises:
        ConfigError: If there is no such network, or a keyword is no field of it or out
            of range.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kdiff_jax import networks
        >>> module = networks.make("mlp", channels=8, out_channels=2, num_classes=4)
        >>> x, c_noise, y = jnp.zeros((3, 1, 1, 2)), jnp.zeros(3), jnp.arange(3)
        >>> variables = module.init(jax.random.key(0), x, c_noise, y)
        >>> module.apply(variables, x, c_noise, y).shape
        (3, 1, 1, 2)
    """
    function = make_function(name)
    arguments.check(function, keywords, what=f"network {name!r}", hidden=FLAX)
    return function(**keywords)


def make_function(name: str) -> Callable[..., nn.Module]:
    """What `make` calls; its keywords and defaults are the network's fields."""
    return _module(name).make


def revision(name: str) -> int:
    """Revision of a network's definition, `REVISION` of its file.

    It is raised when the same parameters come to mean another function: models of
    another one are refused.
    """
    return _module(name).REVISION


def facts(name: str) -> list[Any]:
    """What the files of all networks say of this name, each thing once."""
    said = [getattr(_module(network), name, None) for network in names()]
    return list(dict.fromkeys(one for one in said if one is not None))


def _module(name: str) -> ModuleType:
    return registry.module(__name__, name, what="network")


def trainable(params: Params) -> Params:
    """Tree of bool: False for buffers, which no optimizer may move.

    Their gradient is exactly zero, so only a rule that reads the parameter itself
    (weight decay, LAMB) needs this: `optax.add_decayed_weights(w, mask=trainable)`.

    Args:
        params: Parameters of a network, or their shapes.

    Examples:
        >>> from kdiff_jax import networks
        >>> networks.trainable({"map_noise": {"freqs": 0.0}, "out": {"kernel": 0.0}})
        {'map_noise': {'freqs': False}, 'out': {'kernel': True}}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1] not in BUFFERS, params
    )


def grown(params: Params, template: Params) -> Params:
    """The parameters, and zeros for the layer that reads guidance, if they lack it.

    The network is then the same function at every strength.

    Args:
        params: Parameters of a network that may not read it.
        template: Parameters, or their shapes, of the network that they are for.
    """
    if lacking(template, params) is template:
        return params
    new = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), template[GUIDANCE])
    return {**params, GUIDANCE: new}


def lacking(template: Params, params: Params) -> Params:
    """The template without the layer that reads guidance, if the parameters lack it."""
    both = isinstance(template, Mapping) and isinstance(params, Mapping)
    if not both or GUIDANCE not in template or GUIDANCE in params:
        return template
    return {name: value for name, value in template.items() if name != GUIDANCE}
