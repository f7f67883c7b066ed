"""How NVlabs/edm constructs its networks: keywords, defaults, constants of the parts.

And what a pickle of persistent objects says of them.
"""

import math
from typing import Any

import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.pickle_objects import Stub
from kdiff_jax.formats.torch_files import Persistent
from kdiff_jax.formats.torch_modules import attribute, children

INF = float("inf")
# Keywords of the reference's constructors and their defaults; None must be given.
WRAPPER = dict(img_resolution=None, img_channels=None, label_dim=0, use_fp16=False)
WRAPPERS = {
    "EDMPrecond": dict(sigma_min=0.0, sigma_max=INF, sigma_data=0.5),
    "GDDPrecond": dict(sigma_min=0.0, sigma_max=INF, sigma_data=0.5),
    "VPPrecond": dict(beta_d=19.9, beta_min=0.1, M=1000, epsilon_t=1e-5),
    "VEPrecond": dict(sigma_min=0.02, sigma_max=100.0),
    "iDDPMPrecond": dict(C_1=0.001, C_2=0.008, M=1000),
}
PRECONDITIONS = {
    "edm": "EDMPrecond",
    "boundary": "GDDPrecond",
    "vp": "VPPrecond",
    "ve": "VEPrecond",
    "iddpm": "iDDPMPrecond",
}
NETWORK = dict(
    img_resolution=None,
    in_channels=None,
    out_channels=None,
    label_dim=0,
    augment_dim=0,
    channel_mult_emb=4,
    dropout=0.10,
    label_dropout=0.0,
)
NETWORKS = {
    "SongUNet": NETWORK
    | dict(
        model_channels=128,
        channel_mult=[1, 2, 2, 2],
        num_blocks=4,
        attn_resolutions=[16],
        embedding_type="positional",
        channel_mult_noise=1,
        encoder_type="standard",
        decoder_type="standard",
        resample_filter=[1, 1],
    ),
    "DhariwalUNet": NETWORK
    | dict(
        model_channels=192,
        channel_mult=[1, 2, 3, 4],
        num_blocks=3,
        attn_resolutions=[32, 16, 8],
    ),
}
# Attributes of the network's parts that are constants in ours.
CONSTANTS = {
    "SongUNet": {
        "UNetBlock": dict(skip_scale=math.sqrt(0.5), adaptive_scale=False),
        "GroupNorm": dict(eps=1e-6),
        "PositionalEmbedding": dict(max_positions=10000, endpoint=True),
    },
    "DhariwalUNet": {
        "UNetBlock": dict(skip_scale=1, adaptive_scale=True),
        "GroupNorm": dict(eps=1e-5),
        "PositionalEmbedding": dict(max_positions=10000, endpoint=False),
    },
}
PARTS = ("UNetBlock", "GroupNorm", "PositionalEmbedding", "FourierEmbedding") + (
    "Linear",
    "Conv2d",
    "ModuleDict",
)


def keywords(module, known, *, base=None, inner=False) -> dict[str, Any]:
    """The constructor's keywords of a persistent object, defaults filled in.

    Args:
        known: {class: {keyword: default}}.
        base: More of them, for every class.
        inner: Takes keywords that it hands on to its network.
    """
    name = _kind(module)
    if name not in known:
        raise CheckpointError(
            f"class_name={name!r}: not a network that is known; known are"
            f" {', '.join(known)}"
        )
    defaults = {**(base or {}), **known[name]}
    given = dict(attribute(module, "_init_kwargs"))
    if module.state.get("_init_args"):
        raise CheckpointError(
            f"{name} was constructed with positional arguments, whose names the file"
            " does not say; save it constructed with keywords"
        )
    if inner:
        handed_on = {k for network in NETWORKS.values() for k in network}
        unknown = sorted(given.keys() - defaults.keys() - handed_on - {"model_type"})
    else:
        unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        raise CheckpointError(
            f"{unknown[0]}={given[unknown[0]]!r}: {name} has no such keyword in the"
            " reference code; such a network is not known"
        )
    # An attribute is what its code reads; a keyword is where it came from.
    given |= {k: v for k, v in module.state.items() if k in defaults}
    return {k: plain(k, given.get(k, v), v) for k, v in defaults.items()}


def plain(keyword: str, value: Any, default: Any) -> Any:
    """The value as a plain one of the default's kind."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(default, list) and isinstance(value, list | tuple):
        return [plain(keyword, v, 0) for v in value]
    if isinstance(default, str):
        valid = isinstance(value, str)
    elif isinstance(default, float):
        valid = isinstance(value, int | float)
    else:  # a whole number; None is one that must be given
        whole = isinstance(value, int) or isinstance(value, float) and value % 1 == 0
        valid, value = whole, int(value) if whole else value
    if not valid:
        raise CheckpointError(
            f"{keyword}={value!r}: not what the reference code has there, as"
            f" {default!r}"
        )
    return value


def check_parts(module, network: str) -> None:
    """Parts must be of known classes, with the constants that ours have."""
    for name, child in children(module).items():
        kind = _kind(child)
        if kind not in PARTS:
            raise CheckpointError(
                f"{name}: has class {kind!r}, which networks of this family do not have"
            )
        for key, expected in CONSTANTS[network].get(kind, {}).items():
            value = child.state.get(key, expected)
            if not math.isclose(plain(key, value, 1.0), expected, rel_tol=1e-6):
                raise CheckpointError(
                    f"{name}.{key}={value!r}: {network} has {expected!r}; such a"
                    " network is not known"
                )
        check_parts(child, network)


def _kind(module) -> str:
    """The name of a stored object's class."""
    if isinstance(module, Persistent):
        return module.class_name
    return module.name if isinstance(module, Stub) else type(module).__name__
