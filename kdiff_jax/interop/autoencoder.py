"""`AutoencoderKL` in the files of others: its options and the names of its arrays.

Options and defaults are those of diffusers 0.42. A file of before diffusers, such as
the single file of Stable Diffusion 1.5, has other names (`original.first_stage`).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import raw
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import diffusers_names
from kdiff_jax.interop.options import Option, Unlike, checked, only

CLASS = "AutoencoderKL"
SCALING_FACTOR = 0.18215  # Stable Diffusion's, of configs that do not say it
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}
OPTIONS: dict[str, Option] = dict(
    in_channels=Option(3),
    out_channels=Option(3),
    down_block_types=Option(("DownEncoderBlock2D",)),
    up_block_types=Option(("UpDecoderBlock2D",)),
    block_out_channels=Option((64,)),
    layers_per_block=Option(1),
    act_fn=Option("silu", ("silu", "swish")),
    latent_channels=Option(4),
    norm_num_groups=Option(32),
    sample_size=Option(None),  # theirs is 32, which no released one is of
    scaling_factor=Option(SCALING_FACTOR),
    shift_factor=Option(None),
    latents_mean=only(None),
    latents_std=only(None),
    force_upcast=Option(True),  # of half precision, which ours is not
    use_quant_conv=Option(True),
    use_post_quant_conv=Option(True),
    mid_block_add_attention=Option(True),
)
COUNTS = "in_channels out_channels layers_per_block latent_channels norm_num_groups"


class Described(NamedTuple):
    """What a config says of an autoencoder.

    Attributes:
        fields: Fields of `encoders.autoencoder_kl.AutoencoderKL`.
        scaling_factor: What latents are multiplied by before a denoiser reads them.
        shift_factor: What is taken from them before that.
        sample_size: Side of the images it was trained on; None where nothing says it.
    """

    fields: dict[str, Any]
    scaling_factor: float = SCALING_FACTOR
    shift_factor: float = 0.0
    sample_size: int | None = None


def read_config(config: Mapping[str, Any]) -> Described:
    """What diffusers' config.json describes.

    Raises:
        CheckpointError: If it is another network's, or an option or its value is not
            implemented. One line.
    """
    try:
        if (name := config.get("_class_name", CLASS)) != CLASS:
            raise Unlike("_class_name", name, f"{CLASS} alone")
        return _described(checked(config, OPTIONS))
    except Unlike as error:
        option, value, ways = error.args
        shown = repr(value) if isinstance(value, list | tuple) else raw.shown(value)
        raise CheckpointError(
            f"config.json: {option}={shown[:100]}: is not implemented; there is {ways}"
        ) from error


def _described(options: Mapping[str, Any]) -> Described:
    for name in COUNTS.split():
        if type(options[name]) is not int or options[name] < 1:
            raise Unlike(name, options[name], "a number, 1 or more")
    widths = options["block_out_channels"]
    if (
        not isinstance(widths, list | tuple)
        or not widths
        or any(type(width) is not int or width < 1 for width in widths)
    ):
        raise Unlike("block_out_channels", widths, "a list of numbers")
    groups = options["norm_num_groups"]
    if any(width % groups for width in widths):
        raise Unlike("norm_num_groups", groups, f"a divisor of all of {list(widths)}")
    scale, shift = options["scaling_factor"], options["shift_factor"]
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not scale > 0:
        raise Unlike("scaling_factor", scale, "a number above 0")
    if shift is not None and not isinstance(shift, int | float):
        raise Unlike("shift_factor", shift, "a number, or null")
    fields = dict(
        widths=tuple(widths),
        num_blocks=options["layers_per_block"],
        in_channels=options["in_channels"],
        out_channels=options["out_channels"],
        latent_channels=options["latent_channels"],
        num_groups=groups,
        down_attention=_attention(options, "down_block_types", DOWN),
        up_attention=_attention(options, "up_block_types", UP),
        mid_attention=bool(options["mid_block_add_attention"]),
        quant_conv=bool(options["use_quant_conv"]),
        post_quant_conv=bool(options["use_post_quant_conv"]),
    )
    size = options["sample_size"]
    size = size[0] if isinstance(size, list | tuple) and size else size
    if size is not None and (type(size) is not int or size < 1):
        raise Unlike("sample_size", options["sample_size"], "a number of pixels")
    return Described(fields, float(scale), float(shift or 0), size)


def _attention(options, name: str, known: Mapping[str, bool]) -> tuple[bool, ...]:
    """Which levels have attention; () if none has."""
    types = options[name]
    if not isinstance(types, list | tuple):
        raise Unlike(name, types, "a list")
    for block in types:
        if not isinstance(block, str) or block not in known:
            raise Unlike(name, block, " or ".join(known))
    if len(types) != len(options["block_out_channels"]):
        raise Unlike(name, list(types), "one for each of block_out_channels")
    found = tuple(known[block] for block in types)
    return found if any(found) else ()


def of_shapes(
    shapes: Mapping[str, tuple[int, ...]], num_groups: int = 32
) -> dict[str, Any]:
    """Fields of the network, of arrays that come without a config.

    Args:
        shapes: Shapes by diffusers' names.
        num_groups: Groups of the norms, which no shape shows.

    Raises:
        CheckpointError: If these are no arrays of an autoencoder.
    """
    try:
        levels = _numbers(shapes, r"encoder\.down_blocks\.(\d+)\.")
        first = "encoder.down_blocks.{}.resnets.0.conv1.weight"
        widths = tuple(shapes[first.format(i)][0] for i in levels)
        blocks = _numbers(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")
        down = [f"encoder.down_blocks.{i}.attentions." for i in levels]
        up = [f"decoder.up_blocks.{i}.attentions." for i in levels]
        fields = dict(
            widths=widths,
            num_blocks=len(blocks),
            in_channels=shapes["encoder.conv_in.weight"][1],
            out_channels=shapes["decoder.conv_out.weight"][0],
            latent_channels=shapes["decoder.conv_in.weight"][1],
            num_groups=num_groups,
            down_attention=_present(shapes, down),
            up_attention=_present(shapes, up),
            mid_attention=any(_present(shapes, ["encoder.mid_block.attentions."])),
            quant_conv="quant_conv.weight" in shapes,
            post_quant_conv="post_quant_conv.weight" in shapes,
        )
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"its autoencoder has no {error.args[0]}; it is not whole, or another kind"
            f" of network than {CLASS}"
        ) from error
    if any(width % num_groups for width in widths):
        raise CheckpointError(
            f"its autoencoder has widths {list(widths)}, which norms of {num_groups}"
            " groups do not divide; give config=FOLDER, the vae/ folder of diffusers"
            " that says norm_num_groups"
        )
    return fields


def _numbers(shapes, pattern: str) -> list[int]:
    found = {int(m[1]) for name in shapes if (m := re.match(pattern, name))}
    return list(range(len(found)))


def _present(shapes, starts: list[str]) -> tuple[bool, ...]:
    found = tuple(any(name.startswith(s) for name in shapes) for s in starts)
    return found if any(found) else ()


def read_weights(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """{our path: array in our layout} of {diffusers' name: array}."""
    return {our_path(name): _turned(leaf, name) for name, leaf in tensors.items()}


def our_path(name: str) -> str:
    """encoder.mid_block.resnets.0.conv1.bias -> encoder/mid_block_resnets_0/..."""
    part, _, rest = name.partition(".")
    if part in ("encoder", "decoder"):
        return f"{part}/{diffusers_names.our_path(rest)}"
    return diffusers_names.our_path(name)


def their_name(path: str) -> str:
    """The inverse of `our_path`, by the names of today."""
    part, _, rest = path.partition("/")
    if part in ("encoder", "decoder"):
        return f"{part}.{diffusers_names.their_name(rest)}"
    return diffusers_names.their_name(path)


def _turned(leaf: Lazy, name: str) -> Lazy:
    if ".attentions." in name and len(leaf.shape) == 4:
        leaf = leaf.reshape(*leaf.shape[:2])  # a 1x1 convolution, in the original
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(len(leaf.shape))
    return leaf.transpose(*axes) if axes else leaf
