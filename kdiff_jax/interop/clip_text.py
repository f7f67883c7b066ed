"""CLIP's text towers in the files of others: options, and the names of their arrays.

Options and defaults are those of transformers 5.24. Names are transformers' (with or
without the `text_model.` that all files of before had), or OpenCLIP's.
"""

import re
from collections.abc import Mapping
from typing import Any

from kdiff_jax.errors import CheckpointError
from kdiff_jax.features import frozen, transformer
from kdiff_jax.formats import raw
from kdiff_jax.formats.lazy import Lazy

TEXT, WHOLE = "clip_text_model", "clip"
WITH_PROJECTION = "CLIPTextModelWithProjection"
CLASSES = ("CLIPTextModel", WITH_PROJECTION, "CLIPModel")
GELUS = {
    "quick_gelu": "quick",
    "gelu": "exact",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
}
COUNTS = {  # transformers' name -> (our field, its default)
    "vocab_size": ("vocab_size", 49408),
    "hidden_size": ("width", 512),
    "num_hidden_layers": ("num_blocks", 12),
    "num_attention_heads": ("num_heads", 8),
    "intermediate_size": ("hidden", 2048),
    "max_position_embeddings": ("num_positions", 77),
}
END = 49407  # of configs that do not say it
LARGEST = 2  # as eos_token_id: what released configs say, and mean the largest number
# Of other towers of a whole CLIP, and what nothing reads.
IGNORED = ("vision_model.", "visual.", "visual_projection.", "logit_", "attn_mask")
NAMES = (
    (r"^text_model\.", ""),
    (r"^embeddings\.token_embedding\.weight$", "token_embedding"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^encoder\.layers\.", "blocks."),
    (r"^final_layer_norm\.", "norm."),
    # OpenCLIP's
    (r"^token_embedding\.weight$", "token_embedding"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_final\.", "norm."),
)
BACK = (  # ours -> transformers'
    (r"^token_embedding$", "embeddings.token_embedding.weight"),
    (r"^pos_embed$", "embeddings.position_embedding.weight"),
    (r"^norm\.", "final_layer_norm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.attn\.proj\.", ".self_attn.out_proj."),
    (r"\.norm([12])\.", r".layer_norm\1."),
)


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `encoders.clip_text.ClipText` of transformers' config.json.

    The projection is `projection_dim`, which files of towers without one have, too.

    Raises:
        CheckpointError: If it is another network's, or an option is not implemented.
    """
    kind = config.get("model_type", TEXT)
    classes = config.get("architectures") or CLASSES
    if kind not in (TEXT, WHOLE) or classes[0] not in CLASSES:
        found = raw.shown(kind if kind not in (TEXT, WHOLE) else classes[0])
        raise CheckpointError(
            f"config.json: {found} is not implemented; there is {', '.join(CLASSES)}"
        )
    if kind == WHOLE:
        inside = config.get("text_config") or {}
        config = {**inside, "projection_dim": config.get("projection_dim", 512)}
    fields: dict[str, Any] = {
        ours: _number(config, name, default) for name, (ours, default) in COUNTS.items()
    }
    if fields["width"] % fields["num_heads"]:
        raise CheckpointError(
            f"config.json: num_attention_heads={fields['num_heads']}: must divide"
            f" hidden_size={fields['width']}; copy the file again"
        )
    gelu = config.get("hidden_act", "quick_gelu")
    if gelu not in GELUS:
        raise CheckpointError(
            f"config.json: hidden_act={raw.shown(gelu)}: is not implemented; there is"
            f" {', '.join(GELUS)}"
        )
    end = config.get("eos_token_id", END)
    if type(end) is not int:
        raise CheckpointError(
            f"config.json: eos_token_id={raw.shown(end)}: must be a number"
        )
    eps = config.get("layer_norm_eps", 1e-5)
    return fields | dict(
        gelu=GELUS[gelu],
        eps=float(eps),
        end=None if end == LARGEST else end,
        projection=_number(config, "projection_dim", 512),
    )


def _number(config, name: str, default: int) -> int:
    value = config.get(name, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(
            f"config.json: {name}={raw.shown(value)}: must be a number, 1 or more"
        )
    return value


def needs_projection(config: Mapping[str, Any]) -> bool:
    """Whether the config is of a tower with a projection."""
    return WITH_PROJECTION in (config.get("architectures") or ())


def of_shapes(named: Mapping[str, Lazy], *, gelu: str) -> dict[str, Any]:
    """Fields of the network, of arrays (see `named`) that come without a config.

    Heads are 64 wide, as those of all released towers.

    Raises:
        CheckpointError: If these are no arrays of a text tower.
    """
    try:
        (vocab_size, width) = named["token_embedding"].shape
        blocks = {m[1] for name in named if (m := re.match(r"blocks\.(\d+)\.", name))}
        fields = dict(
            vocab_size=vocab_size,
            width=width,
            num_blocks=len(blocks),
            num_heads=width // 64,
            hidden=named["blocks.0.mlp.fc1.weight"].shape[0],
            num_positions=named["pos_embed"].shape[0],
            projection=named["proj"].shape[1] if "proj" in named else None,
            gelu=gelu,
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"its text encoder has no {error.args[0]}; it is not whole, or no tower of"
            " CLIP"
        ) from error
    if not fields["num_heads"]:
        raise CheckpointError(
            f"its text encoder is {width} wide, so its heads are none of 64; give"
            " config=FOLDER, the text_encoder/ folder that says num_attention_heads"
        )
    return fields


def named(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Arrays of a file under our names, in PyTorch's layout; of other towers nothing.

    `proj` is [width, P], as OpenCLIP has it.
    """
    own = {
        name: array
        for name, array in tensors.items()
        if not name.startswith(IGNORED) and not name.endswith("position_ids")
    }
    found = transformer.named(own, NAMES)
    if "text_projection" in found:
        found["proj"] = found.pop("text_projection")
    if "text_projection.weight" in found:
        found["proj"] = found.pop("text_projection.weight").transpose(1, 0)
    return found


def without_last_block(named: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Stable Diffusion 2's tower of OpenCLIP's: states before its last block, normed.

    A projection, which nothing of Stable Diffusion 2 reads, goes as well.
    """
    numbers = {int(m[1]) for name in named if (m := re.match(r"blocks\.(\d+)\.", name))}
    last = f"blocks.{max(numbers, default=0)}."
    return {
        name: array
        for name, array in named.items()
        if not name.startswith(last) and name != "proj"
    }


def leaves(named: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """{"blocks.0/attn/qkv/kernel": array in our layout} of `named`."""
    found = {}
    for name, array in named.items():
        path = our_path(name)
        is_matrix = path.endswith("/kernel")
        found[path] = array.transpose(1, 0) if is_matrix else array
    return found


def our_path(name: str) -> str:
    """blocks.0.attn.qkv.weight -> blocks.0/attn/qkv/kernel."""
    *parts, leaf = name.split(".")
    if not parts:
        return name
    if leaf == "weight":
        leaf = "scale" if "norm" in parts[-1] else "kernel"
    block = [".".join(parts[:2])] if parts[0] == "blocks" else []
    return "/".join([*block, *parts[2 * len(block) :], leaf])


def their_arrays(leaves: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Arrays under transformers' names, of leaves under our paths."""
    found: dict[str, Lazy] = {}
    for path, leaf in leaves.items():
        name = frozen.torch_name(tuple(path.split("/")))
        if path.endswith("/kernel"):
            leaf = leaf.transpose(1, 0)
        if name == "proj":
            found["text_projection.weight"] = leaf.transpose(1, 0)
            continue
        for pattern, theirs in BACK:
            name = re.sub(pattern, theirs, name)
        if ".attn.qkv." not in name:
            found[f"text_model.{name}"] = leaf
            continue
        size = leaf.shape[0] // 3
        for i, letter in enumerate("qkv"):
            part = leaf.take(slice(i * size, (i + 1) * size))
            new = name.replace(".attn.qkv.", f".self_attn.{letter}_proj.")
            found[f"text_model.{new}"] = part
    return found
