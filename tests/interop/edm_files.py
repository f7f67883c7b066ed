"""EDM's checkpoints, written from arrays: pickles of its objects; random weights."""

import json
import zlib
from typing import Any

import numpy as np
import streams

from kdiff_jax.diffusion import noise_levels
from kdiff_jax.formats.pickle_objects import Stub
from kdiff_jax.formats.torch_files import Persistent

BUFFERS = ("resample_filter", "freqs", "u")
CONSTANTS = {  # attributes of a network's parts, in the reference code
    "SongUNet": {
        "UNetBlock": {"skip_scale": 0.5**0.5, "adaptive_scale": False},
        "GroupNorm": {"eps": 1e-6},
        "PositionalEmbedding": {"max_positions": 10000, "endpoint": True},
    },
    "DhariwalUNet": {
        "UNetBlock": {"skip_scale": 1, "adaptive_scale": True},
        "GroupNorm": {"eps": 1e-5},
        "PositionalEmbedding": {"max_positions": 10000, "endpoint": False},
    },
}


def random_arrays(shapes: str, taps) -> dict[str, np.ndarray]:
    """The weights behind `edm_forms.npz`: each drawn from a seed that is its name."""
    arrays = {}
    for key, shape in json.loads(shapes).items():
        name = key.removeprefix("model.")
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("resample_filter"):
            value = np.outer(taps, taps)[None, None] / np.sum(taps) ** 2
        elif name == "u":
            value = noise_levels.iddpm_levels()
        elif name.endswith("freqs"):
            value = 16 * rng.normal(size=shape)
        elif len(shape) > 1:
            value = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        elif "norm" in name and name.endswith("weight"):
            value = 1 + 0.2 * rng.normal(size=shape)
        else:
            value = 0.1 * rng.normal(size=shape)
        assert list(value.shape) == shape
        arrays[key] = value.astype(np.float32)
    return arrays


def objects(arrays, *, wrapper, network, said, own, **attributes) -> Persistent:
    """The network as persistent objects.

    Args:
        arrays: {"model.enc.16x16_conv.weight": array}, with buffers.
        wrapper: Class of the preconditioning.
        network: Class of the network.
        said: Keywords of the wrapper, those that it hands on among them.
        own: Keywords of the network.
        attributes: Of the wrapper.
    """
    net: Any = _module(arrays, wrapper, network)
    net.state |= {"_init_args": (), "_init_kwargs": said, **attributes}
    model = net.state["_modules"]["model"]
    model.state |= {"_init_args": (), "_init_kwargs": own}
    noise = model.state["_modules"].setdefault(
        "map_noise", Persistent("PositionalEmbedding", {}, {})
    )
    noise.state |= CONSTANTS[network].get(noise.class_name, {})
    return net


def pickle(value) -> bytes:
    """A pickle as EDM writes them."""
    return streams.stream(_code(value))


def _module(arrays, kind: str, network: str):
    """A module of class `kind` with what is below it."""
    state: dict[str, Any] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    below: dict[str, dict[str, Any]] = {}
    for key, array in arrays.items():
        name, _, rest = key.partition(".")
        if rest:
            below.setdefault(name, {})[rest] = array
        else:
            where = "_buffers" if name in BUFFERS else "_parameters"
            state[where][name] = array
    for name, inner in below.items():
        state["_modules"][name] = _module(inner, _kind(name, inner, network), network)
    if kind == "ModuleDict":
        return Stub("torch.nn.modules.container", kind, (), state)
    return Persistent(kind, state | CONSTANTS[network].get(kind, {}), {})


def _kind(name: str, arrays, network: str) -> str:
    if name in ("enc", "dec"):
        return "ModuleDict"
    if name == "model":
        return network
    if "norm0.weight" in arrays:
        return "UNetBlock"
    if "norm" in name:
        return "GroupNorm"
    if name == "map_noise":
        return "FourierEmbedding"
    return "Linear" if name.startswith("map") or name == "affine" else "Conv2d"


def _code(value):
    """Opcodes of a tree."""
    if isinstance(value, Persistent):
        return streams.persistent(value.class_name, _code(value.state))
    if isinstance(value, Stub):
        made = streams.name(value.module, value.name) + b")\x81"
        return streams.build(streams.Code(made), _code(value.state))
    if isinstance(value, np.ndarray):
        return streams.parameter(np.ascontiguousarray(value))
    if isinstance(value, dict):
        return {k: _code(v) for k, v in value.items()}
    return value
