"""The names of Stable Diffusion's U-Net in its authors' files, as diffusers has them.

Both count the same blocks in the same order: the authors through the whole encoder and
the whole decoder, with convolutions that resample among them; diffusers level by level.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy

OUTSIDE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
RESAMPLE = {"op": "downsamplers.0.conv", "conv": "upsamplers.0.conv"}


def renamed(arrays: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """{diffusers' name: array} of {the authors' name: array}; see `names`."""
    return {new: arrays[name] for name, new in names(arrays).items()}


def names(theirs: Iterable[str]) -> dict[str, str]:
    """{the authors' name: diffusers' name} of all arrays of a network.

    Raises:
        CheckpointError: Names an array that no such network has.
    """
    theirs = list(theirs)
    places = {
        "input_blocks": _places(theirs, "input_blocks", 1, "op"),
        "output_blocks": _places(theirs, "output_blocks", 0, "conv"),
    }
    return {name: _renamed(name, places) for name in theirs}


def _places(
    names: Sequence[str], part: str, first: int, resampled: str
) -> list[tuple[int, int]]:
    """(level, place in it) of each block from `first` on, in order.

    A block that resamples is the last of its level.
    """
    numbers = {int(m[1]) for k in names if (m := re.match(rf"{part}\.(\d+)\.", k))}
    ends = rf"{part}\.(\d+)\.\d+\.{resampled}\.weight$"
    last = {int(m[1]) for k in names if (m := re.match(ends, k))}
    places, level, place = [(-1, -1)] * first, 0, 0
    for number in range(first, max(numbers, default=0) + 1):
        places.append((level, place))
        level, place = (level + 1, 0) if number in last else (level, place + 1)
    return places


def _renamed(name: str, places: Mapping[str, list[tuple[int, int]]]) -> str:
    *parts, leaf = name.split(".")
    module = ".".join(parts)
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{leaf}"
    if parts[0] == "middle_block":
        kind = ("resnets.0", "attentions.0", "resnets.1")[int(parts[1])]
        layer = ".".join(parts[2:])
        return f"mid_block.{kind}.{RESNET.get(layer, layer)}.{leaf}"
    if parts[0] not in places:
        raise CheckpointError(f"{name}: is no array of Stable Diffusion's U-Net")
    level, place = places[parts[0]][int(parts[1])]
    layer = ".".join(parts[3:])
    head = f"{'down' if parts[0] == 'input_blocks' else 'up'}_blocks.{level}"
    if layer in RESAMPLE:
        return f"{head}.{RESAMPLE[layer]}.{leaf}"
    if layer in RESNET:
        return f"{head}.resnets.{place}.{RESNET[layer]}.{leaf}"
    return f"{head}.attentions.{place}.{layer}.{leaf}"
