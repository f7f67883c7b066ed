"""DiT and SiT as their authors released them: state dicts in PyTorch.

Nothing in such a file says the number of heads, or which of the two it is; the flags in
a training state say the latter.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.formats.pickle_objects import Stub
from kdiff_jax.interop import dit_names
from kdiff_jax.interop.averages import Network, choose, state_dicts
from kdiff_jax.interop.source import Facts, Source, reject_malformed
from kdiff_jax.networks.dit import FREQUENCIES, positions

ANCHORS = (
    "x_embedder.proj.weight",
    "t_embedder.mlp.0.weight",
    "blocks.0.attn.qkv.weight",
    "final_layer.adaLN_modulation.1.weight",
)
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # S, B, L and XL, by width
NULL_PROB = 0.1  # the authors' share of dropped classes
DIT = dict(
    precondition={"name": "eps"},
    process=dict(
        name="discrete",
        schedule="linear",
        beta_min=1e-4,
        beta_max=0.02,
        num_timesteps=1000,
    ),
)
SIT = dict(
    precondition=dict(name="velocity", data_at=1),
    process={"name": "flow"},
)
LINES = {
    "eps": "process='discrete', linear beta from 1e-4 to 0.02 in 1000 steps: DiT's",
    "velocity": "process='flow', whose t is 1 - t of SiT: 0 is the data",
}
FOLDERS = False  # what it reads, see `foreign.families`


def matches(content: Any) -> bool:
    """Whether this is a DiT or SiT, or a training state with one."""
    return bool(_networks(content))


@reject_malformed
def convert(content: Any, facts: Facts) -> Source:
    """The network in our terms; of a training state, the moving average if it has one.

    Args:
        content: {"x_embedder.proj.weight": array, ...}, under names of wrappers or in a
            training state.
        facts: `num_heads`, where the width is not a published one's; `precondition`,
            "velocity" for SiT.

    Raises:
        CheckpointError: If it is another network, or a fact is missing. One line.
    """
    found, said = choose(_networks(content))
    if found.beside:
        raise CheckpointError(
            f"checkpoint has {found.beside[0]!r} beside the network {found.where!r};"
            " save the network's own state dict"
        )
    state: Mapping[str, Lazy] = found.content
    shape = {name: leaf.shape for name, leaf in state.items()}
    network, assumed = _network(shape, facts)
    image_shape, said_of_size = _image_shape(state, facts)
    num_classes, said_of_classes = _num_classes(shape)
    parts, sampler, said_of_kind = _kind(content, facts)
    spec = dict(
        network=network,
        **parts,
        image_shape=image_shape,
        num_classes=num_classes,
        null_prob=NULL_PROB if num_classes else 0.0,
        sampler=facts.choose_sampler(sampler, 50),
        space=space_of(image_shape),
    )
    assumed = *said, *assumed, *said_of_kind, *said_of_size, *said_of_classes
    return Source(spec, dit_names.of_authors(state), assumed)


def _kind(content: Any, facts: Facts) -> tuple[dict[str, Any], str, list[str]]:
    """(preconditioning and process, a sampler, what was assumed) of DiT or SiT.

    Raises:
        CheckpointError: If it is neither, or a SiT of another path or output.
    """
    flags = content.get("args") if isinstance(content, Mapping) else None
    flags = flags.state if isinstance(flags, Stub) else None
    flags = flags if isinstance(flags, Mapping) else {}
    is_sit = str(flags.get("model", "")).startswith("SiT")
    for name, value in dict(path_type="Linear", prediction="velocity").items():
        if is_sit and flags.get(name, value) != value:
            raise CheckpointError(
                f"args.{name}={flags[name]!r}: is not implemented for SiT; there is"
                f" {value}"
            )
    said = []
    if "model" in flags:
        facts.agree(precondition="velocity" if is_sit else "eps")
    elif facts.precondition is None:
        said = ["precondition='eps': DiT; say velocity if it is a SiT"]
    kind = facts.precondition or ("velocity" if is_sit else "eps")
    if kind not in LINES:
        raise CheckpointError(
            f"precondition={kind!r}: that of DiT is eps, and of SiT velocity; take one"
            " of these"
        )
    parts, sampler = (DIT, "ddim") if kind == "eps" else (SIT, "euler")
    return parts, sampler, [*said, LINES[kind]]


def space_of(image_shape: list[int]) -> str:
    """Where its images live: latents, but for one or three channels."""
    return "pixels" if image_shape[-1] in (1, 3) else "latents"


def heads(width: int, facts: Facts) -> tuple[int, list[str]]:
    """(the number of heads, a line that says it if it is assumed).

    Raises:
        CheckpointError: If nobody says it, or it does not divide the width.
    """
    number = facts.num_heads or HEADS.get(width)
    if number is None:
        raise CheckpointError(
            f"num_heads=None: no such file says it, and {width} is no published width;"
            " give --num_heads"
        )
    if width % number:
        raise CheckpointError(
            f"num_heads={number}: must divide the width, which is {width}"
        )
    said = [f"num_heads={number}: that of the published networks of this width"]
    return number, [] if facts.num_heads else said


def _network(
    shape: Mapping[str, tuple[int, ...]], facts: Facts
) -> tuple[dict[str, Any], list[str]]:
    """(fields of `networks.dit`, what was assumed)."""
    width, image_channels, side, _ = shape["x_embedder.proj.weight"]
    frequencies = shape["t_embedder.mlp.0.weight"][1]
    if frequencies != FREQUENCIES:
        raise CheckpointError(
            f"its network reads {frequencies} waves of the time, and ours {FREQUENCIES}"
        )
    outputs = shape["final_layer.linear.weight"][0] / side**2
    if outputs not in (image_channels, 2 * image_channels):
        raise CheckpointError(
            f"its network has {outputs:g} outputs for images of {image_channels}"
            " channels; such a network is not known"
        )
    numbers = [int(m[1]) for name in shape if (m := re.match(r"blocks\.(\d+)\.", name))]
    num_heads, assumed = heads(width, facts)
    network = dict(
        name="dit",
        channels=width,
        num_blocks=1 + max(numbers),
        num_heads=num_heads,
        patch_size=side,
        mlp_ratio=shape["blocks.0.mlp.fc1.weight"][0] / width,
        qkv_bias="blocks.0.attn.qkv.bias" in shape,
        learned_variance=outputs != image_channels,
    )
    return network, assumed


def _image_shape(
    state: Mapping[str, Lazy], facts: Facts
) -> tuple[list[int], list[str]]:
    """(H, W and C, a line on the positions if they are not in the file)."""
    width, channels, side, _ = state["x_embedder.proj.weight"].shape
    stored, size, said = state.get("pos_embed"), facts.image_size, []
    if stored is None:
        if size is None:
            raise CheckpointError(
                "image_size=None: there are no positions (pos_embed) in the file that"
                " say it; give --image_size, of the latents"
            )
        said = ["pos_embed: sines of the grid, as the authors have them"]
    else:
        grid = math.isqrt(stored.shape[1])
        facts.agree(image_size=grid * side)
        size = grid * side
        check_positions(stored, grid, width)
    return [size, size, channels], said


def check_positions(stored: Lazy, grid: int, width: int) -> None:
    """Refuses positions that are not those of the network.

    Raises:
        CheckpointError: If they are learned ones, or another grid's.
    """
    value = np.asarray(stored.read(), np.float64).reshape(-1, width)
    ours = positions(grid, grid, width).reshape(-1, width)
    # Those of bfloat16 files are as far off.
    if value.shape != ours.shape or np.abs(value - ours).max() > 5e-3:
        raise CheckpointError(
            f"pos_embed of {stored.shape}: are not the sines of a square grid, and"
            " others are not implemented; take a network with fixed positions"
        )


def _num_classes(shape: Mapping[str, tuple[int, ...]]) -> tuple[int, list[str]]:
    rows = shape.get(f"y_embedder.{dit_names.TABLE}", (0,))[0]
    if not rows:
        return 0, []
    said = f"num_classes={rows - 1}: the last of the table's {rows} rows is no class"
    return rows - 1, [said]


def _networks(content: Any) -> list[Network]:
    return state_dicts(content, _prefixes)


def _prefixes(state: Mapping[str, Lazy]) -> list[str]:
    """What stands before the names of the networks of this family in a state dict."""
    first, *more = ANCHORS
    found = [name.removesuffix(first) for name in state if name.endswith(first)]
    return [p for p in found if all(p + name in state for name in more)]
