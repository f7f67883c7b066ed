"""State dicts of DDPM in PyTorch: pesser/pytorch_diffusion and ermongroup/ddim.

Both hold Ho et al.'s networks under one set of names; our `ddpm_unet` has diffusers'.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop.averages import Network, choose, state_dicts
from kdiff_jax.interop.source import Facts, Source, reject_malformed

ANCHORS = ("temb.dense.0.weight", "down.0.block.0.norm1.weight", "mid.attn_1.q.weight")
BLOCK = {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut"}
ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out_0",
}
MODULES = {
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
    "temb.dense.0": "time_embedding_linear_1",
    "temb.dense.1": "time_embedding_linear_2",
}
AVERAGE = 4  # its place in [model, optimizer, epoch, step, average]
ATTENTION_SIZE = 16  # pixels; of every network that was published


FOLDERS = False  # what it reads, see `foreign.families`


def matches(content: Any) -> bool:
    """Whether this is a network of that code, or a training state with one."""
    return bool(_networks(content))


@reject_malformed
def convert(content: Any, facts: Facts) -> Source:
    """The network in our terms; of a training state, the moving average if it has one.

    Args:
        content: {"down.0.block.0.norm1.weight": array, ...}, under names of wrappers or
            in the list that ermongroup/ddim writes.
        facts: `image_size` where attention is not at 16 pixels.

    Raises:
        CheckpointError: If it is another network. One line.
    """
    found, said = choose(_networks(content))
    if found.beside:
        raise CheckpointError(
            f"checkpoint has {found.beside[0]!r} beside the network {found.where!r};"
            " save the network's own state dict"
        )
    state = found.content
    facts.agree(precondition="eps")
    assumed = [
        *said,
        "process='discrete', linear beta from 1e-4 to 0.02 in 1000 steps: DDPM's own",
        "dropout=0.0: a state dict does not say",
    ]
    shape = {key: leaf.shape for key, leaf in state.items()}
    levels = 1 + max(int(m[1]) for k in shape if (m := re.match(r"down\.(\d+)\.", k)))
    blocks = {m[0] for k in shape if (m := re.match(r"down\.0\.block\.\d+\.", k))}
    attends = [i for i in range(levels) if f"down.{i}.attn.0.q.weight" in shape]
    if levels > 1 and "down.0.downsample.conv.weight" not in shape:
        raise CheckpointError(
            "resamp_with_conv=False: its network resamples without convolutions, which"
            " ours does not"
        )
    size = facts.image_size
    if size is None:
        if not attends:
            raise CheckpointError(
                "image_size=None: the file does not say; give the images' pixels"
            )
        size = ATTENTION_SIZE << attends[0]
        assumed.append(f"image_size={size}: attention is at {ATTENTION_SIZE} pixels")
    channels, image_channels = shape["conv_in.weight"][:2]
    widths = [shape[f"down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    outputs = shape["conv_out.weight"][0]
    if any(width % channels for width in widths) or outputs != image_channels:
        raise CheckpointError(
            f"its network has {channels} channels, levels of {widths} and {outputs}"
            f" outputs for images of {image_channels}; such a network is not known"
        )
    spec = dict(
        network=dict(
            name="ddpm_unet",
            channels=channels,
            channel_mult=[width // channels for width in widths],
            num_blocks=len(blocks),
            attn_resolutions=[size >> i for i in attends],
            num_groups=32,
            norm_eps=1e-6,
            dropout=0.0,
        ),
        precondition={"name": "eps"},
        process=dict(
            name="discrete",
            schedule="linear",
            beta_min=1e-4,
            beta_max=0.02,
            num_timesteps=1000,
        ),
        image_shape=[size, size, image_channels],
        num_classes=0,
        augment_dim=0,
        sampler=facts.choose_sampler("ddim", 50, spacing="quadratic"),
    )
    leaves = {}
    for key, leaf in state.items():
        path = _path(key, levels)
        leaves[path] = _leaf(leaf, dense="attentions" in path)
    return Source(spec, leaves, tuple(assumed))


def _path(key: str, levels: int) -> str:
    """Where "up.1.block.0.conv1.weight" stands in our parameters."""
    module, _, leaf = key.rpartition(".")
    if found := re.match(r"(down|up)\.(\d+)\.(block|attn)\.(\d+)\.(\w+)$", module):
        way, level, kind, i, part = found.groups()
        level = int(level) if way == "down" else levels - 1 - int(level)
        prefix = f"{way}_blocks_{level}_"
    elif found := re.match(r"(down|up)\.(\d+)\.(?:down|up)sample\.conv$", module):
        level = int(found[2]) if found[1] == "down" else levels - 1 - int(found[2])
        kind, part = "", f"{found[1]}samplers_0_conv"
        prefix, i = f"{found[1]}_blocks_{level}_", ""
    elif found := re.match(r"mid\.(block|attn)_(\d)\.(\w+)$", module):
        kind, i, part = found[1], str(int(found[2]) - 1), found[3]
        prefix = "mid_block_"
    elif module in MODULES:
        kind, prefix, part, i = "", "", MODULES[module], ""
    else:
        raise CheckpointError(f"its network has {key}, which ours does not have")
    if kind == "block":
        part = f"resnets_{i}/{BLOCK.get(part, part)}"
    elif kind == "attn":
        part = f"attentions_{i}/{ATTENTION.get(part, part)}"
    if leaf == "weight":
        leaf = "scale" if "norm" in part.rpartition("/")[2] else "kernel"
    return f"{prefix}{part}/{leaf}"


def _leaf(leaf: Lazy, *, dense: bool) -> Lazy:
    """Dense [in, out], Conv [H, W, in, out], float32.

    Args:
        dense: A 1x1 convolution is a Dense layer here.
    """
    if len(leaf.shape) == 4:
        leaf = leaf.transpose(2, 3, 1, 0)
        if dense and leaf.shape[:2] == (1, 1):
            leaf = leaf.reshape(*leaf.shape[2:])
    elif len(leaf.shape) == 2:
        leaf = leaf.transpose(1, 0)
    return leaf.astype(np.float32)


def _networks(content: Any) -> list[Network]:
    """The networks of this family; in ermongroup's list the average is last."""
    if isinstance(content, list | tuple) and content:
        last = {"ema": content[-1]} if len(content) > AVERAGE else {}
        content = {"model": content[0], **last}
    return state_dicts(content, _prefixes)


def _prefixes(state: Mapping[str, Lazy]) -> list[str]:
    """What stands before the names of the networks of this family in a state dict."""
    first, *more = ANCHORS
    found = [name.removesuffix(first) for name in state if name.endswith(first)]
    return [p for p in found if all(p + name in state for name in more)]
