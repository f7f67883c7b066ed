"""Checkpoints of NVlabs/edm, and of GDD: pickles of persistent objects, state dicts.

A pickle says how its network was constructed, and what it says is checked against the
shapes. A state dict says nothing: names, shapes and buffers tell the network, and the
preconditioning is the user's knowledge.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from kdiff_jax.diffusion import noise_levels
from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop.lazy import Lazy
from kdiff_jax.interop.pickles import Stub
from kdiff_jax.interop.source import Facts, Source, whole
from kdiff_jax.interop.torch_files import Persistent

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
FIELDS = {  # the reference's keyword -> the field of `song_unet` and `adm_unet`
    "model_channels": "channels",
    "channel_mult": "channel_mult",
    "channel_mult_emb": "emb_mult",
    "channel_mult_noise": "noise_mult",
    "num_blocks": "num_blocks",
    "attn_resolutions": "attn_resolutions",
    "embedding_type": "embedding",
    "encoder_type": "encoder",
    "decoder_type": "decoder",
    "resample_filter": "taps",
    "dropout": "dropout",
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
NETS = ("ema", "G_ema", "net")  # where a file holds its network, the best first
ANCHOR = "map_layer0.weight"  # a parameter that every network of the family has


def matches(content: Any) -> bool:
    """Whether this is a network of the family: a persistent object, or a state dict."""
    return _object(content) is not None or bool(_anchors(content))


@whole
def convert(content: Any, facts: Facts) -> Source:
    """The checkpoint in our terms; computes in float32 whatever `use_fp16` said.

    Args:
        content: A pickle's tree, or a state dict {"model.enc.16x16_conv.weight": ...}.
        facts: A state dict needs `precondition` where it is not "edm".

    Raises:
        CheckpointError: For keywords, classes and names that are not known, and shapes
            that disagree with what the file says. One line.
    """
    net = _object(content)
    if net is not None:
        return _from_pickle(net, facts)
    anchors = _anchors(content)
    if len(anchors) > 1:
        raise CheckpointError(
            f"checkpoint holds several networks, {', '.join(map(repr, anchors))};"
            " save the one that is meant by itself"
        )
    return _from_state_dict(_tree(content), anchors[0], facts)


def _from_pickle(net: Persistent, facts: Facts) -> Source:
    wrapper = _keywords(net, WRAPPERS, base=WRAPPER, inner=True)
    model: Any = _children(net).get("model")
    said = _keywords(model, NETWORKS)
    _check_parts(model, model.class_name)
    flat = _state_dict(net)
    leaves = {k.removeprefix("model."): v for k, v in flat.items() if k != "u"}
    found = _of_shapes(leaves)
    _compare(model.class_name, said, found)
    name = {v: k for k, v in PRECONDITIONS.items()}[net.class_name]
    facts.agree(precondition=name, image_size=said["img_resolution"])
    for key in ("sigma_min", "sigma_max", "eps"):  # eps, GDD's: x0_hat is x_t there
        if key in net.state:
            wrapper[key] = _plain(key, net.state[key], 0.0)
    assumed = []
    if said["label_dropout"]:
        assumed.append(
            f"label_dropout={said['label_dropout']} of its training is not kept"
        )
    return _source(name, wrapper, said | found, leaves, flat.get("u"), facts, assumed)


def _from_state_dict(flat: Mapping[str, Lazy], prefix: str, facts: Facts) -> Source:
    buffer = prefix.removesuffix("model.") + "u"
    unknown = [k for k in flat if not k.startswith(prefix) and k != buffer]
    if unknown:
        raise CheckpointError(
            f"checkpoint has {unknown[0]!r} and {len(unknown) - 1} more beside the"
            f" network {prefix!r}; save the network's own state dict"
        )
    leaves = {k.removeprefix(prefix): v for k, v in flat.items() if k != buffer}
    assumed = ["dropout=0.0: a state dict does not say"]
    if buffer in flat:
        name = "iddpm"
        facts.agree(precondition=name)
    else:
        name = facts.precondition or "edm"
        if facts.precondition is None:
            assumed.append("precondition='edm': a state dict does not say")
    if name not in PRECONDITIONS:
        raise CheckpointError(
            f"precondition={name!r}: networks of this family have one of"
            f" {', '.join(PRECONDITIONS)}"
        )
    found = _of_shapes(leaves)
    if found.get("embedding_type") == "positional" and found["channel_mult_noise"] != 1:
        raise CheckpointError(
            "map_noise.freqs is missing: an embedding twice as wide as the network is"
            " of random frequencies; save the buffers with the weights"
        )
    facts.agree(image_size=found["img_resolution"])
    wrapper = dict(WRAPPERS[PRECONDITIONS[name]])
    if buffer in flat:
        wrapper["M"] = flat[buffer].shape[0] - 1
    defaults = NETWORKS[found["class_name"]]
    return _source(
        name,
        wrapper,
        {**defaults, "dropout": 0.0, **found},
        leaves,
        flat.get(buffer),
        facts,
        assumed,
    )


def _source(name, wrapper, config, leaves, levels, facts, assumed) -> Source:
    """Puts a checkpoint's parts together.

    Args:
        name: Of the preconditioning.
        wrapper: The preconditioning's keywords in the reference's names.
        config: The network's, likewise.
        leaves: {"enc.16x16_conv.weight": array} with buffers.
        levels: The buffer `u` of iDDPM, or None.
    """
    size, channels = config["img_resolution"], config["in_channels"]
    expected = channels * (2 if name == "iddpm" else 1)
    if config["out_channels"] != expected:
        raise CheckpointError(
            f"precondition={name!r}: its network has {expected} output channels, and"
            f" the checkpoint's has {config['out_channels']}"
        )
    process: dict[str, Any] = {"name": "edm"}
    precondition: dict[str, Any] = {"name": name}
    if name in ("edm", "boundary"):
        precondition["sigma_data"] = float(wrapper["sigma_data"])
    if name == "boundary":
        precondition["sigma_min"] = float(wrapper.get("eps", 0.002))
    if name == "vp":
        precondition["beta_d"] = float(wrapper["beta_d"])
        precondition["beta_min"] = float(wrapper["beta_min"])
        precondition["num_timesteps"] = int(wrapper["M"])
        ends = noise_levels.vp(
            jnp.array([1.0, 0.0]),
            beta_d=precondition["beta_d"],
            beta_min=precondition["beta_min"],
            epsilon_t=float(wrapper["epsilon_t"]),
        )
        wrapper = {"sigma_min": ends[0], "sigma_max": ends[1]} | wrapper
    if name == "iddpm":
        trained: dict[str, Any] = {
            "C_1": float(wrapper["C_1"]),
            "C_2": float(wrapper["C_2"]),
        }
        count = int(wrapper["M"])
        precondition |= trained | {"num_timesteps": count}
        process |= trained | {"num_levels": count}
        u = noise_levels.iddpm_levels(**trained, num_timesteps=count)
        if levels is not None and not np.allclose(levels.read(), u, 1e-3, 1e-6):
            raise CheckpointError(
                f"checkpoint's levels u are not those of C_1={trained['C_1']},"
                f" C_2={trained['C_2']}, M={count}; such a network is not known"
            )
        wrapper = {"sigma_min": u[-2], "sigma_max": u[0]} | wrapper
    # As the reference's sampler: what its network knows, within 0.002 to 80.
    process["sigma_min"] = max(0.002, float(wrapper["sigma_min"]))
    process["sigma_max"] = min(80.0, float(wrapper["sigma_max"]))
    network = {"name": "adm_unet"}
    if config["class_name"] == "SongUNet":
        network = {"name": "song_unet"}
    network |= {field: config[k] for k, field in FIELDS.items() if k in config}
    if name == "boundary":
        sampler = facts.choose_sampler("ddim", 1)
    else:
        sampler = facts.choose_sampler("heun", 18 if size <= 32 else 40)
    spec = dict(
        network=network,
        precondition=precondition,
        process=process,
        image_shape=[size, size, channels],
        num_classes=config["label_dim"],
        augment_dim=config["augment_dim"],
        sampler=sampler,
    )
    params = {
        _path(key): _leaf(leaf)
        for key, leaf in leaves.items()
        if not key.endswith(".resample_filter")  # constants of our networks
    }
    return Source(spec, params, tuple(assumed))


def _of_shapes(leaves: Mapping[str, Lazy]) -> dict[str, Any]:
    """What names, shapes and buffers say, in the reference's keywords."""
    shape = {key: leaf.shape for key, leaf in leaves.items()}
    found = [re.match(r"enc\.(\d+)x\1_(\w+)", key) for key in leaves]
    sizes = sorted({int(m[1]) for m in found if m}, reverse=True)
    song = f"dec.{sizes[0]}x{sizes[0]}_aux_conv.weight" if sizes else ""
    if song in shape:
        name, out = "SongUNet", shape[song]
        channels = shape[f"enc.{sizes[0]}x{sizes[0]}_conv.weight"][0]
        noise = {"channel_mult_noise": shape[ANCHOR][1] / channels}
    else:
        name, out = "DhariwalUNet", shape["out_conv.weight"]
        channels, noise = shape[ANCHOR][1], {}
    widths = [shape[f"enc.{s}x{s}_block0.conv0.weight"][0] for s in sizes]
    mults = dict(
        channel_mult=[w / channels for w in widths],
        channel_mult_emb=shape[ANCHOR][0] / channels,
        **noise,
    )
    in_channels = shape[f"enc.{sizes[0]}x{sizes[0]}_conv.weight"][1]
    config: dict[str, Any] = dict(
        class_name=name,
        img_resolution=sizes[0],
        in_channels=in_channels,
        out_channels=out[0],
        label_dim=shape.get("map_label.weight", (0, 0))[1],
        augment_dim=shape.get("map_augment.weight", (0, 0))[1],
        model_channels=channels,
        num_blocks=sum(
            f"enc.{sizes[0]}x{sizes[0]}_block{i}.conv0.weight" in shape
            for i in range(len(shape))
        ),
        attn_resolutions=[
            s for s in sizes if f"enc.{s}x{s}_block0.qkv.weight" in shape
        ],
        **{
            k: [_exact(m) for m in v] if isinstance(v, list) else _exact(v)
            for k, v in mults.items()
        },
    )
    if sizes != [sizes[0] >> level for level in range(len(sizes))]:
        raise CheckpointError(f"checkpoint has levels {sizes}; each must halve another")
    taps = _taps([leaf for k, leaf in leaves.items() if k.endswith("resample_filter")])
    if name == "DhariwalUNet":
        if taps not in (None, [1, 1]):
            raise CheckpointError(f"resample_filter={taps}: DhariwalUNet has [1, 1]")
        return config
    fourier = "map_noise.freqs" in shape
    config["embedding_type"] = "fourier" if fourier else "positional"
    if len(sizes) > 1:
        small = f"{sizes[1]}x{sizes[1]}"
        for kind in ("skip", "residual"):
            if f"enc.{small}_aux_{kind}.weight" in shape:
                config["encoder_type"] = kind
        config.setdefault("encoder_type", "standard")
        skip = f"dec.{small}_aux_conv.weight" in shape
        config["decoder_type"] = "skip" if skip else "standard"
        if taps is None:
            raise CheckpointError(
                "checkpoint has no resample_filter; save the buffers with the weights"
            )
        config["resample_filter"] = taps
    return config


def _exact(ratio: float) -> int | float:
    """A whole number as int: widths are whole multiples, where all is well."""
    return round(ratio) if round(ratio) == ratio else ratio


def _taps(filters: list[Lazy]) -> list[int] | None:
    """The integers whose outer product the filters are; None without filters."""
    if not filters:
        return None
    first = filters[0].read()
    row = first.reshape(first.shape[-2:]).sum(0)
    taps = np.round(row / row.min()) if row.min() > 0 else row
    exact = np.outer(taps, taps) / taps.sum() ** 2
    if not all(
        f.shape == first.shape and np.allclose(f.read()[0, 0], exact, atol=1e-6)
        for f in filters
    ):
        raise CheckpointError(
            "resample_filter: not the outer product of positive integers, the same"
            " everywhere; such a filter is not known"
        )
    return [int(tap) for tap in taps]


def _compare(network: str, said: dict[str, Any], found: dict[str, Any]) -> None:
    """What a file says of its network must be what its arrays are."""
    sizes = [said["img_resolution"] >> i for i in range(len(said["channel_mult"]))]
    attends = [s for s in sizes if s in said["attn_resolutions"]]
    if network == "DhariwalUNet":  # heads of 64 channels: none in a narrow level
        width = dict(zip(sizes, said["channel_mult"], strict=True))
        attends = [s for s in attends if width[s] * said["model_channels"] >= 64]
    effective = said | {"class_name": network, "attn_resolutions": attends}
    for key, value in found.items():
        expected = effective[key]
        expected = list(expected) if isinstance(expected, tuple) else expected
        if expected != value:
            raise CheckpointError(
                f"{key}={expected!r}: the checkpoint's arrays have {value!r}; the file"
                " contradicts itself"
            )


def _keywords(module, known, *, base=None, inner=False) -> dict[str, Any]:
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
    given = dict(_dict(module, "_init_kwargs"))
    if module.state.get("_init_args"):
        raise CheckpointError(
            f"{name} was constructed with positional arguments, whose names the file"
            " does not say; save it constructed with keywords"
        )
    if inner:
        handed_on = {k for keywords in NETWORKS.values() for k in keywords}
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
    return {k: _plain(k, given.get(k, v), v) for k, v in defaults.items()}


def _plain(keyword: str, value: Any, default: Any) -> Any:
    """The value as a plain one of the default's kind."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(default, list) and isinstance(value, list | tuple):
        return [_plain(keyword, v, 0) for v in value]
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


def _check_parts(module, network: str) -> None:
    """Parts must be of known classes, with the constants that ours have."""
    for name, child in _children(module).items():
        kind = _kind(child)
        if kind not in PARTS:
            raise CheckpointError(
                f"{name}: has class {kind!r}, which networks of this family do not have"
            )
        for key, expected in CONSTANTS[network].get(kind, {}).items():
            value = child.state.get(key, expected)
            if not math.isclose(_plain(key, value, 1.0), expected, rel_tol=1e-6):
                raise CheckpointError(
                    f"{name}.{key}={value!r}: {network} has {expected!r}; such a"
                    " network is not known"
                )
        _check_parts(child, network)


def _state_dict(module, prefix: str = "") -> dict[str, Lazy]:
    """{"model.enc.16x16_conv.weight": array} of a tree of modules, with buffers."""
    flat = {}
    for kind in ("_parameters", "_buffers"):
        for name, leaf in _dict(module, kind).items():
            if isinstance(leaf, Lazy):
                flat[f"{prefix}{name}"] = leaf
    for name, child in _children(module).items():
        flat |= _state_dict(child, f"{prefix}{name}.")
    return flat


def _children(module) -> dict[str, Any]:
    return {k: v for k, v in _dict(module, "_modules").items() if v is not None}


def _dict(module, name: str) -> dict[str, Any]:
    """An attribute of a stored object that is a dict, or is not there."""
    if not isinstance(module, Persistent | Stub) or not isinstance(module.state, dict):
        raise CheckpointError("checkpoint's network is not made of modules")
    found = _opened(module.state.get(name)) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"checkpoint's {name} is not a dict; it is damaged")
    return found


def _kind(module) -> str:
    """The name of a stored object's class."""
    if isinstance(module, Persistent):
        return module.class_name
    return module.name if isinstance(module, Stub) else type(module).__name__


def _object(content: Any):
    """The persistent network of a pickle's tree, or None."""
    content = _opened(content)
    nets = _best_first(content) if isinstance(content, Mapping) else [content]
    return next((net for net in nets if isinstance(net, Persistent)), None)


def _best_first(content: Mapping) -> list[Any]:
    """The values of a dict: those of `NETS`, then other averages, then the rest."""

    def rank(name):
        known = NETS.index(name) if name in NETS else len(NETS)
        return known, not (isinstance(name, str) and "ema" in name)

    return [_opened(content[name]) for name in sorted(content, key=rank)]


def _opened(value: Any) -> Any:
    """An EasyDict as the dict that it is."""
    easy = isinstance(value, Stub) and value.name == "EasyDict"
    return value.items if easy else value


def _tree(content: Any) -> Mapping[str, Any]:
    """The state dict in a torch file: itself, or in a dict of it, averages first."""
    content = _opened(content)
    if not isinstance(content, Mapping):
        return {}
    if any(isinstance(k, str) and k.endswith(ANCHOR) for k in content):
        return content
    found = map(_tree, _best_first(content))
    return next((tree for tree in found if tree), {})


def _anchors(content: Any) -> list[str]:
    """Prefixes of the networks of this family in a state dict."""
    names = [name for name in _tree(content) if isinstance(name, str)]
    prefixes = [name.removesuffix(ANCHOR) for name in names if name.endswith(ANCHOR)]
    return [p for p in prefixes if any(n.startswith(f"{p}enc.") for n in names)]


def _path(key: str) -> str:
    """Where "enc.16x16_block0.norm0.weight" stands in our parameters."""
    *parts, leaf = key.split(".")
    if parts[0] in ("enc", "dec"):
        parts[:2] = ["_".join(parts[:2])]
    if leaf == "weight":
        leaf = "scale" if "norm" in parts[-1] else "kernel"
    return "/".join((*parts, leaf))


def _leaf(leaf: Lazy) -> Lazy:
    """Dense [in, out], Conv [H, W, in, out], float32."""
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(len(leaf.shape))
    return (leaf.transpose(*axes) if axes else leaf).astype(np.float32)
