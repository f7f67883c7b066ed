"""Single files of Stable Diffusion as its authors released them.

One state dict holds all networks, each under its own prefix: the denoiser, the
autoencoder (`first_stage_model.`), and the text encoder (`cond_stage_model.`; of SDXL
`conditioner.embedders.0.` and `.1.`).
"""

import pathlib
import re
from collections.abc import Mapping

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import containers, torch_modules
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.formats.pickle_objects import Stub

FIRST_STAGE = "first_stage_model."
SDXL = "conditioner.embedders.1."
# Where a text encoder may be, by its folder in a pipeline of diffusers: transformers'
# names, then OpenCLIP's.
TEXT_ENCODERS = {
    "text_encoder": (
        "cond_stage_model.transformer.",
        "conditioner.embedders.0.transformer.",
        "cond_stage_model.model.",
    ),
    "text_encoder_2": (f"{SDXL}model.",),
}
OPENCLIP = "model."  # how the prefixes of OpenCLIP's end


def open_file(path: pathlib.Path) -> dict[str, Lazy]:
    """The arrays of a file by name; no code of it is run.

    Raises:
        CheckpointError: If it is damaged, or holds no arrays by name.
    """
    content = containers.open(path).content
    inside = content.get("state_dict") if isinstance(content, Mapping) else None
    content = inside if isinstance(inside, Mapping) else content
    if not isinstance(content, Mapping | Stub):
        raise CheckpointError(f"{path}: no state dict; give a file of Stable Diffusion")
    return torch_modules.arrays(content)


def under(prefix: str, arrays: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """The arrays whose names begin so, without that beginning."""
    return {
        k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)
    }


def first_stage(arrays: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """The autoencoder of a file under diffusers' names; {} if there is none.

    The file may be that of an autoencoder alone, with its discriminator beside it.
    """
    own = under(FIRST_STAGE, arrays) or arrays
    own = {k: v for k, v in own.items() if k.split(".")[0] in PARTS}
    if not any(name.startswith("decoder.") for name in own):
        return {}
    ups = [int(m[1]) for k in own if (m := re.match(r"decoder\.up\.(\d+)\.", k))]
    last = max(ups, default=0)
    return {_renamed(name, last): leaf for name, leaf in own.items()}


def text_encoder(part: str, arrays: Mapping[str, Lazy]) -> tuple[dict[str, Lazy], bool]:
    """(the arrays of a text encoder, whether it is OpenCLIP's); ({}, False) of none."""
    for prefix in TEXT_ENCODERS.get(part, ()):
        if own := under(prefix, arrays):
            return own, prefix.endswith(f".{OPENCLIP}")
    return {}, False


PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")
NAMES = (
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.attn\.", r".down_blocks.\1.attentions."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.attn\.", r".up_blocks.\1.attentions."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"(\.attentions\.\d+\.)norm\.", r"\1group_norm."),
    (r"(\.attentions\.\d+\.)([qkv])\.", r"\1to_\2."),
    (r"(\.attentions\.\d+\.)proj_out\.", r"\1to_out.0."),
)


def _renamed(name: str, last: int) -> str:
    """A name of diffusers; `last` is the number of the decoder's first level."""
    for pattern, theirs in NAMES:
        name = re.sub(pattern, theirs, name)
    if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", name)) and last:
        level, rest = int(found[1]), name[found.end() :]
        # The original counts from the largest images.
        return f"decoder.up_blocks.{last - level}.{rest}"
    return name
