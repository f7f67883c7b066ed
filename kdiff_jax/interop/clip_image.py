"""CLIP's image towers in the files of others: what a config or the shapes say of them.

Options and defaults are those of transformers 5.24. Names are `features.vit`'s matter.
"""

import re
from collections.abc import Mapping
from typing import Any

from kdiff_jax.errors import CheckpointError
from kdiff_jax.features import vit
from kdiff_jax.formats import raw
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import clip_text

COUNTS = {  # transformers' name -> (our field, its default)
    "hidden_size": ("width", 768),
    "num_hidden_layers": ("num_blocks", 12),
    "num_attention_heads": ("num_heads", 12),
    "intermediate_size": ("hidden", 3072),
    "patch_size": ("patch", 32),
    "image_size": ("side", 224),
}
HEADS = {768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}  # of the released towers
NAMES = {  # (width, side of a patch) -> name
    (768, 32): "ViT-B-32",
    (768, 16): "ViT-B-16",
    (1024, 14): "ViT-L-14",
    (1280, 14): "ViT-H-14",
    (1408, 14): "ViT-g-14",
    (1664, 14): "ViT-bigG-14",
}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `features.vit.VisionTransformer` of the config.json of a whole CLIP.

    Raises:
        CheckpointError: If it is another network's, or an option is not implemented.
    """
    kind = config.get("model_type", clip_text.WHOLE)
    if kind != clip_text.WHOLE:
        raise CheckpointError(
            f"config.json: {raw.shown(kind)} is no whole CLIP (model_type"
            f" {clip_text.WHOLE!r}), with both its towers"
        )
    inside = config.get("vision_config") or {}
    fields: dict[str, Any] = {
        ours: _number(inside, name, default) for name, (ours, default) in COUNTS.items()
    }
    side = fields.pop("side")
    gelu = inside.get("hidden_act", "quick_gelu")
    if fields["width"] % fields["num_heads"] or side % fields["patch"]:
        raise CheckpointError(
            "config.json: num_attention_heads must divide hidden_size, and patch_size"
            " image_size; copy the file again"
        )
    if gelu not in clip_text.GELUS:
        raise CheckpointError(
            f"config.json: hidden_act={raw.shown(gelu)}: is not implemented; there is"
            f" {', '.join(clip_text.GELUS)}"
        )
    return fields | dict(
        grid=side // fields["patch"],
        gelu=clip_text.GELUS[gelu],
        eps=float(inside.get("layer_norm_eps", 1e-5)),
        out=_number(config, "projection_dim", 512),
    )


def of_shapes(named: Mapping[str, Lazy], *, gelu: str) -> dict[str, Any]:
    """The same fields, of arrays under our names that come without a config.

    Raises:
        CheckpointError: If these are no arrays of an image tower.
    """
    try:
        (width, _, patch, _) = named["patch_embed.proj.weight"].shape
        blocks = {m[1] for name in named if (m := re.match(r"blocks\.(\d+)\.", name))}
        return dict(
            width=width,
            num_blocks=len(blocks),
            num_heads=HEADS.get(width, max(1, width // 64)),
            hidden=named["blocks.0.mlp.fc1.weight"].shape[0],
            grid=round((named["pos_embed"].shape[1] - 1) ** 0.5),
            patch=patch,
            gelu=gelu,
            eps=1e-5,
            out=named["proj"].shape[1],
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"its image tower has no {error.args[0]}; it is not whole, or no CLIP"
        ) from error


def name_of(module: vit.VisionTransformer) -> str:
    """What a tower of these sizes is called, as "ViT-L-14"."""
    side = module.grid * module.patch
    default = f"ViT-{module.width}-{module.patch}"
    name = NAMES.get((module.width, module.patch), default)
    return name if side == 224 else f"{name}-{side}"


def _number(config, name: str, default: int) -> int:
    value = config.get(name, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(
            f"config.json: {name}={raw.shown(value)}: must be a number, 1 or more"
        )
    return value
