"""Folders of diffusers with a `UNet2DConditionModel`: Stable Diffusion 1.x, 2.x, XL.

A folder is a pipeline, with the network in unet/, or the network alone. What else a
pipeline has (text encoders, tokenizers, autoencoder, checker) is no part of the model.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from kdiff_jax.interop import diffusers_files as files
from kdiff_jax.interop import diffusers_names, diffusers_options, schedulers_latent
from kdiff_jax.interop.diffusers_files import CONFIG
from kdiff_jax.interop.options import Option, Unlike, only
from kdiff_jax.interop.source import Facts, Source

CLASS = "UNet2DConditionModel"
NETWORK = "unet2d_condition"
DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}  # whether with transformers
UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}
PIPELINE = "pipeline"  # the fact of a spec that names the folder of the other parts
TOKENS = 77  # of CLIP's text encoders
OPTIONS: dict[str, Option] = dict(
    sample_size=Option(None),
    in_channels=Option(4),
    out_channels=Option(4),
    center_input_sample=Option(False),
    flip_sin_to_cos=Option(True),
    freq_shift=Option(0),
    down_block_types=Option((*["CrossAttnDownBlock2D"] * 3, "DownBlock2D")),
    mid_block_type=Option(
        "UNetMidBlock2DCrossAttn", ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)
    ),
    up_block_types=Option(("UpBlock2D", *["CrossAttnUpBlock2D"] * 3)),
    only_cross_attention=only(False),
    block_out_channels=Option((320, 640, 1280, 1280)),
    layers_per_block=Option(2),
    downsample_padding=Option(1, (0, 1)),
    mid_block_scale_factor=Option(1),
    dropout=Option(0.0),
    act_fn=Option("silu", ("silu", "swish")),
    norm_num_groups=Option(32),
    norm_eps=Option(1e-5),
    cross_attention_dim=Option(1280),
    transformer_layers_per_block=Option(1),
    reverse_transformer_layers_per_block=Option(None),
    encoder_hid_dim=only(None),
    encoder_hid_dim_type=only(None),
    attention_head_dim=Option(8),  # the number of heads, in spite of its name
    num_attention_heads=only(None),
    dual_cross_attention=only(False),
    use_linear_projection=Option(False),
    class_embed_type=only(None),
    addition_embed_type=Option(None, (None, "text_time")),
    addition_time_embed_dim=Option(None),
    num_class_embeds=only(None),
    upcast_attention=Option(False),  # ours is in float32 always
    resnet_time_scale_shift=Option("default", ("default", "scale_shift")),
    resnet_skip_time_act=Option(False),  # of other blocks
    resnet_out_scale_factor=Option(1.0),  # of other blocks
    time_embedding_type=only("positional"),
    time_embedding_dim=Option(None),
    time_embedding_act_fn=only(None),
    timestep_post_act=only(None),
    time_cond_proj_dim=only(None),
    conv_in_kernel=only(3),
    conv_out_kernel=only(3),
    projection_class_embeddings_input_dim=Option(None),
    attention_type=only("default"),
    class_embeddings_concat=only(False),
    mid_block_only_cross_attention=Option(None, (None, False)),
    cross_attention_norm=only(None),
    addition_embed_type_num_heads=Option(64),  # of other embeddings
)


def convert(
    folder: pathlib.Path,
    home: pathlib.Path,
    config: Mapping[str, Any],
    said: list[str],
    facts: Facts,
) -> Source:
    """The network of a folder, with the process and sampler of its scheduler.

    Args:
        folder: The pipeline's, or `home`.
        home: The network's own.
        config: Content of its config.json.
        said: Lines on which folder was taken.
        facts: What the user says.

    Raises:
        CheckpointError: If it has an option that is not implemented, or lacks its
            weights. One line.
    """
    network, shape, cond_dim = read_config(config, facts)
    off = diffusers_options.off(config, OPTIONS)
    tensors, weights, which = files.weights(home, variant=facts.variant)
    leaves = diffusers_names.read_weights(tensors)
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    diffusers_options.check_groups(shapes, network["num_groups"], None)
    where, beside = files.scheduler(folder, home)
    around = home.absolute().parent if home == folder else folder
    pipeline = str(files.read_json(around / files.INDEX).get("_class_name", ""))
    parts, assumed = schedulers_latent.read(files.read_json(where), facts, pipeline)
    length, from_where = cond_length(around)
    spec: dict[str, Any] = dict(
        network=network,
        **parts,
        image_shape=[*shape],
        num_classes=0,
        cond_dim=cond_dim,
        cond_length=length,
        space="latents",
    )
    if pipeline:
        spec[PIPELINE] = str(around.absolute())
    lines = *said, *diffusers_options.said_of(off, config), *which, *beside, *from_where
    return Source(spec, leaves, (*lines, *assumed), weights)


def cond_length(pipeline: pathlib.Path) -> tuple[int, list[str]]:
    """(tokens of a text, a line that says it if no text encoder does)."""
    for part in ("text_encoder", "text_encoder_2"):
        config = files.read_json(pipeline / part / CONFIG)
        found = config.get("max_position_embeddings")
        if isinstance(found, int) and found > 0:
            return found, []
    return TOKENS, [f"cond_length={TOKENS}: CLIP's; there is no text_encoder/{CONFIG}"]


def read_config(
    config: Mapping[str, Any], facts: Facts
) -> tuple[dict[str, Any], tuple[int, int, int], int]:
    """(network of a spec, shape of the latents, width of the text) of a config.json.

    Raises:
        CheckpointError: If an option, or its value, is not implemented. One line.
    """
    with diffusers_options.refusing():
        options = diffusers_options.read(config, OPTIONS)
        shape = diffusers_options.image_shape(options, facts)
        return _network(options), shape, _cond_dim(options)


def _cond_dim(options: Mapping[str, Any]) -> int:
    width = options["cross_attention_dim"]
    widths = set(width) if isinstance(width, (list, tuple)) else {width}
    if len(widths) != 1 or not all(type(n) is int and n > 0 for n in widths):
        raise Unlike("cross_attention_dim", width, "one width for all levels")
    return widths.pop()


def _network(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `networks.unet2d_condition` of these options."""
    widths = list(options["block_out_channels"])
    channels = widths[0]
    if channels % 2:
        raise Unlike("block_out_channels", widths, "an even first one")
    heads = options["attention_head_dim"]
    per_level = list(heads) if isinstance(heads, (list, tuple)) else [heads]
    if len(per_level) not in (1, len(widths)) or not all(per_level):
        raise Unlike("attention_head_dim", heads, "a number of heads, or one a level")
    if any(n > w for n, w in zip(per_level * len(widths), widths, strict=False)):
        raise Unlike("attention_head_dim", heads, "as many heads as channels at most")
    network: dict[str, Any] = dict(
        name=NETWORK,
        channels=channels,
        channel_mult=[width // channels for width in widths],
        num_blocks=options["layers_per_block"],
        **_depths(options, len(widths)),
        num_heads=heads,
        linear_projection=options["use_linear_projection"],
        **_added(options),
        emb_channels=options["time_embedding_dim"],
        num_groups=options["norm_num_groups"],
        norm_eps=float(options["norm_eps"]),
        freq_shift=float(options["freq_shift"]),
        flip_sin_to_cos=options["flip_sin_to_cos"],
        downsample_padding=options["downsample_padding"],
        mid_divisor=float(options["mid_block_scale_factor"]),
        scale_shift=options["resnet_time_scale_shift"] == "scale_shift",
        center_input=options["center_input_sample"],
        dropout=float(options["dropout"]),
    )
    if any(width % channels for width in widths):
        network["widths"] = widths
    return network


def _added(options: Mapping[str, Any]) -> dict[str, Any]:
    """SDXL's embeddings of pooled text, sizes and crops."""
    if options["addition_embed_type"] is None:
        return {}
    names = "projection_class_embeddings_input_dim", "addition_time_embed_dim"
    for name in names:
        if type(options[name]) is not int or options[name] <= 0:
            raise Unlike(name, options[name], "a number, with text_time")
    added, of_time = (options[name] for name in names)
    if of_time % 2:
        raise Unlike(names[1], of_time, "an even one")
    return dict(added_dim=added, added_time_dim=of_time)


def _depths(options: Mapping[str, Any], levels: int) -> dict[str, Any]:
    """Transformer blocks of each level, down and up, and of the bottleneck."""
    name = "transformer_layers_per_block"
    deep, back = options[name], options[f"reverse_{name}"]
    deep = [deep] * levels if isinstance(deep, int) else list(deep)
    if len(deep) != levels:
        raise Unlike(name, deep, "one for each of block_out_channels")
    if back is None and any(isinstance(one, (list, tuple)) for one in deep):
        raise Unlike(f"reverse_{name}", None, f"those of the way up, as {name} has")
    back = deep[::-1] if back is None else list(back)
    if len(back) != levels:
        raise Unlike(f"reverse_{name}", back, "one for each of block_out_channels")
    kinds = dict(down_block_types=DOWN, up_block_types=UP)
    depths, up_depths = (
        _of_types(options, types, known, each)
        for (types, known), each in zip(kinds.items(), (deep, back), strict=True)
    )
    found: dict[str, Any] = dict(depths=depths, mid_depth=None)
    if up_depths != depths[::-1]:
        found["up_depths"] = up_depths
    if options["mid_block_type"] == "UNetMidBlock2D":
        found["mid_depth"] = 0
    elif options["mid_block_type"] is not None:
        last = deep[-1]
        found["mid_depth"] = last if isinstance(last, int) else last[0]
        if not found["mid_depth"]:
            raise Unlike(name, deep, "one or more for the bottleneck")
    return found


def _of_types(options, name: str, known: Mapping[str, bool], deep: list) -> list:
    """The depth of each level by the type of its blocks, 0 for those without."""
    types = options[name]
    for block in types:
        if block not in known:
            raise Unlike(name, block, ", ".join(known))
    if len(types) != len(deep):
        raise Unlike(name, list(types), "one for each of block_out_channels")
    found = [
        each if known[block] else 0 for block, each in zip(types, deep, strict=True)
    ]
    for block, each in zip(types, found, strict=True):
        depths = each if isinstance(each, (list, tuple)) else [each]
        if known[block] and not all(type(n) is int and n > 0 for n in depths):
            raise Unlike("transformer_layers_per_block", each, "one or more, or none")
    return [list(n) if isinstance(n, tuple) else n for n in found]
