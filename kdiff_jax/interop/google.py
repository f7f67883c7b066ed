"""Checkpoints of google-research/diffusion_distillation: Flax msgpack.

Our `iddpm_unet` has their parameters' names. A file says neither the schedule nor what
the network predicts, except that two outputs are told by their channels.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import averages
from kdiff_jax.interop.source import Facts, Source, reject_malformed

NUM_STEPS = 1024  # of the teachers, which their files may not say


FOLDERS = False  # what it reads, see `foreign.families`


def matches(content: Any) -> bool:
    """Whether this is a training state of that code, or its parameters alone."""
    params = _params(content)
    return all(name in params for name in ("conv_in", "dense0", "mid.block_1"))


@reject_malformed
def convert(content: Any, facts: Facts) -> Source:
    """The moving average of a training state in our terms.

    Args:
        content: {"ema_params", "num_sample_steps", ...}, or the parameters alone.
        facts: `precondition` where the network has one output and predicts another
            thing than x; `image_size` where it is not 8 at the last level.

    Raises:
        CheckpointError: If it is another network. One line.
    """
    flat = _flat(_params(content))
    shape = {path: leaf.shape for path, leaf in flat.items()}
    network, image_channels, outputs = _network(shape)
    levels = len(network["channel_mult"])
    assumed = [
        *averages.of_state(content, "ema_params"),
        "process='cosine', logsnr in [-20, 20], told as inv_cos: as all public configs",
        "dropout=0.0: the file does not say",
    ]
    size = facts.image_size
    if size is None:
        size = 8 * 2 ** (levels - 1)
        assumed.append(f"image_size={size}: 8 at the last level, as in the paper")
    attends = [i for i in range(levels) if f"down_{i}.attn_0/q/kernel" in shape]
    network["attn_resolutions"] = [size >> i for i in attends]

    name = "both" if outputs == 2 * image_channels else facts.precondition
    if name is None:
        name = "x"
        assumed.append("precondition='x': the file does not say x, eps or v")
    possible = {
        image_channels: ("x", "eps", "v"),
        2 * image_channels: ("both",),
    }.get(outputs, ())
    if name not in possible or facts.precondition not in (None, name):
        raise CheckpointError(
            f"precondition={facts.precondition or name!r}: with {outputs} output"
            f" channels for images of {image_channels} it can be"
            f" {' or '.join(possible) or 'nothing known'}"
        )
    num_steps = content.get("num_sample_steps")
    if not isinstance(num_steps, int) or num_steps < 1:
        num_steps = NUM_STEPS
        if facts.num_steps is None:
            assumed.append(f"num_steps={num_steps}: the file does not say")
    spec = dict(
        network=network,
        precondition={"name": name},
        process={"name": "cosine", "logsnr_min": -20.0, "logsnr_max": 20.0},
        image_shape=[size, size, image_channels],
        num_classes=shape.get("class_emb/kernel", (0,))[0],
        augment_dim=0,
        sampler=facts.choose_sampler("ddim", num_steps, clip=True),
    )
    return Source(spec, flat, tuple(assumed))


def _network(shape: Mapping[str, tuple]) -> tuple[dict[str, Any], int, int]:
    """(network with its fields but for attention, channels in, channels out)."""
    *_, image_channels, channels = shape["conv_in/kernel"]
    found = [re.match(r"down_(\d+)\.block_(\d+)/conv1/kernel$", path) for path in shape]
    blocks = [(int(m[1]), int(m[2])) for m in found if m]
    levels = 1 + max((level for level, _ in blocks), default=-1)
    if levels > 1 and "down_0.downsample/norm1/scale" not in shape:
        raise CheckpointError(
            "resblock_resample=False: its network resamples by plain convolutions,"
            " which ours does not"
        )
    widths = [shape[f"down_{i}.block_0/conv1/kernel"][-1] for i in range(levels)]
    if any(width % channels for width in widths):
        raise CheckpointError(
            f"its levels have {widths} channels, not times {channels}"
        )
    queries = [s for path, s in shape.items() if path.endswith("/q/kernel")]
    heads, dims = ({s[axis] for s in queries} for axis in (1, 2))
    if len(heads) > 1 and len(dims) > 1:
        raise CheckpointError(
            f"its attentions have {sorted(heads)} heads of {sorted(dims)} channels;"
            " such a network is not known"
        )
    network = dict(
        name="iddpm_unet",
        channels=channels,
        emb_channels=shape["dense0/kernel"][1],
        channel_mult=[width // channels for width in widths],
        num_blocks=sum(level == 0 for level, _ in blocks),
        dropout=0.0,
        num_heads=min(heads) if len(heads) == 1 else 1,
        head_dim=min(dims) if len(heads) > 1 else None,
    )
    return network, image_channels, shape["conv_out/kernel"][-1]


def _params(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        return {}
    params = content.get("ema_params", content)
    return params if isinstance(params, Mapping) else {}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Lazy]:
    """{"a/b": array}, float32; old files have norms of shape (1, 1, 1, C)."""
    flat = {}
    for name, leaf in tree.items():
        path = f"{prefix}{name}"
        if isinstance(leaf, Mapping):
            flat |= _flat(leaf, f"{path}/")
        elif not isinstance(leaf, Lazy):
            raise CheckpointError(f"its {path} is no array")
        elif name in ("scale", "bias") and leaf.shape[:-1] == (1, 1, 1):
            flat[path] = leaf.reshape(leaf.shape[-1]).astype(np.float32)
        else:
            flat[path] = leaf.astype(np.float32)
    return flat
