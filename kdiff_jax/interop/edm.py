"""Checkpoints of NVlabs/edm, and of GDD: pickles of persistent objects, state dicts.

A pickle says how its network was constructed, and what it says is checked against the
shapes. A state dict says nothing: names, shapes and buffers tell the network, and the
preconditioning is the user's knowledge.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from kdiff_jax.diffusion import noise_levels
from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.formats.torch_files import Persistent
from kdiff_jax.formats.torch_modules import children, opened, state_dict
from kdiff_jax.interop.averages import Network, choose, state_dicts
from kdiff_jax.interop.edm_constructors import (
    NETWORKS,
    PRECONDITIONS,
    WRAPPER,
    WRAPPERS,
    check_parts,
    keywords,
    plain,
)
from kdiff_jax.interop.edm_shapes import ANCHOR, of_shapes
from kdiff_jax.interop.source import Facts, Source, reject_malformed

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


FOLDERS = False  # what it reads, see `foreign.families`


def matches(content: Any) -> bool:
    """Whether this is a network of the family: a persistent object, or a state dict."""
    return bool(_objects(content) or state_dicts(content, _prefixes))


@reject_malformed
def convert(content: Any, facts: Facts) -> Source:
    """The checkpoint in our terms; computes in float32 whatever `use_fp16` said.

    Args:
        content: A pickle's tree, or a state dict {"model.enc.16x16_conv.weight": ...}.
        facts: A state dict needs `precondition` where it is not "edm".

    Raises:
        CheckpointError: For keywords, classes and names that are not known, and shapes
            that disagree with what the file says. One line.
    """
    if objects := _objects(content):
        found, said = choose(objects)
        source = _from_pickle(found.content, facts)
    else:
        found, said = choose(state_dicts(content, _prefixes))
        if found.beside:
            raise CheckpointError(
                f"checkpoint has {found.beside[0]!r} and {len(found.beside) - 1} more"
                f" beside the network {found.where!r}; save the network's own state"
                " dict"
            )
        source = _from_state_dict(found.content, facts)
    return dataclasses.replace(source, assumed=(*said, *source.assumed))


def _from_pickle(net: Persistent, facts: Facts) -> Source:
    wrapper = keywords(net, WRAPPERS, base=WRAPPER, inner=True)
    model: Any = children(net).get("model")
    said = keywords(model, NETWORKS)
    check_parts(model, model.class_name)
    flat = state_dict(net)
    leaves = {k.removeprefix("model."): v for k, v in flat.items() if k != "u"}
    found = of_shapes(leaves)
    _compare(model.class_name, said, found)
    name = {v: k for k, v in PRECONDITIONS.items()}[net.class_name]
    facts.agree(precondition=name, image_size=said["img_resolution"])
    for key in ("sigma_min", "sigma_max", "eps"):  # eps, GDD's: x0_hat is x_t there
        if key in net.state:
            wrapper[key] = plain(key, net.state[key], 0.0)
    assumed = []
    if said["label_dropout"]:
        assumed.append(
            f"label_dropout={said['label_dropout']} of its training is not kept"
        )
    return _source(name, wrapper, said | found, leaves, flat.get("u"), facts, assumed)


def _from_state_dict(flat: Mapping[str, Lazy], facts: Facts) -> Source:
    """The network of {"model.enc. ...": array}, or without "model."."""
    leaves = {k.removeprefix("model."): v for k, v in flat.items() if k != "u"}
    assumed = ["dropout=0.0: a state dict does not say"]
    if "u" in flat:
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
    found = of_shapes(leaves)
    if found.get("embedding_type") == "positional" and found["channel_mult_noise"] != 1:
        raise CheckpointError(
            "map_noise.freqs is missing: an embedding twice as wide as the network is"
            " of random frequencies; save the buffers with the weights"
        )
    facts.agree(image_size=found["img_resolution"])
    wrapper = dict(WRAPPERS[PRECONDITIONS[name]])
    if "u" in flat:
        wrapper["M"] = flat["u"].shape[0] - 1
    defaults = NETWORKS[found["class_name"]]
    return _source(
        name,
        wrapper,
        {**defaults, "dropout": 0.0, **found},
        leaves,
        flat.get("u"),
        facts,
        assumed,
    )


def _source(name, wrapper, config, leaves, levels, facts, assumed) -> Source:
    """Puts a checkpoint's parts together.

    Args:
        name: Name of the preconditioning.
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


def _objects(content: Any) -> list[Network]:
    """The persistent networks of a pickle's tree: itself, or in a dict.

    Beside them stand losses and augmentations, which are persistent as well.
    """
    content = opened(content)
    found = content.items() if isinstance(content, Mapping) else [("", content)]
    nets = [Network(str(k), v) for k, v in found if isinstance(opened(v), Persistent)]
    return [net for net in nets if net.content.class_name in WRAPPERS] or nets[:1]


def _prefixes(state: Mapping[str, Lazy]) -> list[str]:
    """What stands before the names of the networks of this family in a state dict."""
    found = [name.removesuffix(ANCHOR) for name in state if name.endswith(ANCHOR)]
    found = [p for p in found if any(name.startswith(f"{p}enc.") for name in state)]
    return [p.removesuffix("model.") for p in found]


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
