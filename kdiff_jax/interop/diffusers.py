"""Folders of diffusers; those with a `UNet2DModel` (DDPM, consistency models) here.

A folder is a pipeline (model_index.json, with the network in unet/ or beside it) or the
network alone. Options and defaults are those of diffusers 0.42.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from kdiff_jax.errors import CheckpointError
from kdiff_jax.interop import (
    diffusers_condition,
    diffusers_dit,
    diffusers_names,
    diffusers_options,
    schedulers,
)
from kdiff_jax.interop import diffusers_files as files
from kdiff_jax.interop.diffusers_files import CONFIG, SCHEDULER
from kdiff_jax.interop.options import Option, Unlike, only
from kdiff_jax.interop.source import Facts, Source, reject_malformed

CLASS = "UNet2DModel"
DOWN = {
    "DownBlock2D": "",
    "AttnDownBlock2D": "Attn",
    "ResnetDownsampleBlock2D": "Resnet",
}
UP = {"UpBlock2D": "", "AttnUpBlock2D": "Attn", "ResnetUpsampleBlock2D": "Resnet"}
OPTIONS: dict[str, Option] = dict(
    sample_size=Option(None),
    in_channels=Option(3),
    out_channels=Option(3),
    center_input_sample=Option(False),
    time_embedding_type=only("positional"),
    time_embedding_dim=Option(None),
    freq_shift=Option(0),
    flip_sin_to_cos=Option(True),
    down_block_types=Option(("DownBlock2D", *["AttnDownBlock2D"] * 3)),
    mid_block_type=Option("UNetMidBlock2D", ("UNetMidBlock2D", None)),
    up_block_types=Option((*["AttnUpBlock2D"] * 3, "UpBlock2D")),
    block_out_channels=Option((224, 448, 672, 896)),
    layers_per_block=Option(2),
    mid_block_scale_factor=Option(1),
    downsample_padding=Option(1, (0, 1)),
    downsample_type=Option("conv", ("conv", "resnet")),
    upsample_type=Option("conv", ("conv", "resnet")),
    dropout=Option(0.0),
    act_fn=Option("silu", ("silu", "swish")),
    attention_head_dim=Option(8),
    norm_num_groups=Option(32),
    attn_norm_num_groups=Option(None),
    norm_eps=Option(1e-5),
    resnet_time_scale_shift=Option("default", ("default", "scale_shift")),
    add_attention=Option(True),
    class_embed_type=only(None),
    num_class_embeds=Option(None),
    num_train_timesteps=Option(None),  # of time_embedding_type="learned"
)

# Readers of networks of other classes: (folder, the network's, config, said, facts).
READERS = {
    diffusers_condition.CLASS: diffusers_condition.convert,
    **dict.fromkeys(diffusers_dit.CLASSES, diffusers_dit.convert),
}
FOLDERS = True  # what it reads, see `foreign.families`


def matches(folder) -> bool:
    """Whether this is a folder of diffusers; `convert` says whether it can be read."""
    return files.matches(folder)


@reject_malformed
def convert(folder: pathlib.Path, facts: Facts) -> Source:
    """The network of a folder, with the process and sampler of its scheduler.

    Raises:
        CheckpointError: If it is another model, has an option that is not implemented,
            or lacks its weights. One line.
    """
    home, said = files.home(folder)
    config = files.read_json(home / CONFIG)
    if reader := READERS.get(str(config.get("_class_name"))):
        return reader(folder, home, config, said, facts)
    files.check_parts(folder)
    network, shape, num_classes = read_config(config, facts)
    off = diffusers_options.off(config, OPTIONS)
    said += diffusers_options.said_of(off, config)
    tensors, weights, which = files.weights(home, variant=facts.variant)
    leaves = diffusers_names.read_weights(tensors)
    where, beside = files.scheduler(folder, home)
    parts, assumed = schedulers.read(files.read_json(where), facts, SCHEDULER)
    assumed = (*said, *which, *beside, *assumed)
    if where is None:
        note = f"scheduler=DDPMScheduler with its defaults: there is no {SCHEDULER}"
        assumed = (note, *assumed)
    given = facts.precondition
    if given is not None and given != parts["precondition"]["name"]:
        if where is not None:
            raise CheckpointError(
                f"precondition={given!r}: {SCHEDULER} says"
                f" {parts['precondition']['name']!r}; leave it out, or edit that file"
            )
        parts["precondition"] = dict(name=given)
    groups = network["num_groups"], network["mid_num_groups"]
    diffusers_options.check_groups(
        {path: leaf.shape for path, leaf in leaves.items()}, *groups
    )
    spec = dict(network=network, **parts, image_shape=[*shape], num_classes=num_classes)
    return Source(spec, leaves, assumed, weights)


def read_config(
    config: Mapping[str, Any], facts: Facts
) -> tuple[dict[str, Any], tuple[int, int, int], int]:
    """(network of a spec, image shape, number of classes) of a config.json.

    Raises:
        CheckpointError: If an option, or its value, is not implemented. One line.
    """
    with diffusers_options.refusing():
        if (name := config.get("_class_name")) != CLASS:
            known = " or ".join([CLASS, *READERS])
            raise Unlike("_class_name", name, known)
        options = diffusers_options.read(config, OPTIONS)
        return (
            _network(options),
            diffusers_options.image_shape(options, facts),
            _num_classes(options),
        )


def _num_classes(options: Mapping[str, Any]) -> int:
    number = options["num_class_embeds"]
    if number is not None and type(number) is not int:
        raise Unlike("num_class_embeds", number, "a number of classes, or null")
    return number or 0


def _network(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `models.ddpm_unet` that an `UNet2DModel` of these options has."""
    widths = list(options["block_out_channels"])
    channels, head_dim = widths[0], options["attention_head_dim"]
    network: dict[str, Any] = dict(
        name="ddpm_unet",
        channels=channels,
        channel_mult=[width // channels for width in widths],
        num_blocks=options["layers_per_block"],
        attn_resolutions=[],
        down_blocks=_kinds(options, "down_block_types", DOWN),
        up_blocks=_kinds(options, "up_block_types", UP),
        resample_by=[options["downsample_type"], options["upsample_type"]],
        downsample_padding=options["downsample_padding"],
        emb_channels=options["time_embedding_dim"],
        freq_shift=float(options["freq_shift"]),
        flip_sin_to_cos=options["flip_sin_to_cos"],
        head_dim=head_dim,
        num_groups=options["norm_num_groups"],
        norm_eps=float(options["norm_eps"]),
        dropout=float(options["dropout"]),
        mid_block=options["mid_block_type"] is not None,
        mid_attention=options["add_attention"],
        mid_num_groups=options["attn_norm_num_groups"],
        mid_divisor=float(options["mid_block_scale_factor"]),
        scale_shift=options["resnet_time_scale_shift"] == "scale_shift",
        center_input=options["center_input_sample"],
    )
    if any(width % channels for width in widths):
        network["widths"] = widths
    if channels % 2:
        raise Unlike("block_out_channels", widths, "an even first one")
    if head_dim is not None:
        attentive = [
            width
            for width, kind in zip(
                [*widths, *reversed(widths)],
                [*network["down_blocks"], *network["up_blocks"]],
                strict=True,
            )
            if kind == "Attn"
        ]
        if network["mid_block"] and network["mid_attention"]:
            attentive.append(widths[-1])
        if any(width % head_dim for width in attentive):
            raise Unlike("attention_head_dim", head_dim, "a divisor of the channels")
    return network


def _kinds(options, name: str, known: Mapping[str, str]) -> list[str]:
    """Our kinds of the blocks of each level."""
    types = options[name]
    for block in types:
        # The prefix is that of the first releases.
        if block.removeprefix("UNetRes") not in known:
            raise Unlike(name, block, ", ".join(known))
    if len(types) != len(options["block_out_channels"]):
        raise Unlike(name, list(types), "one for each of block_out_channels")
    return [known[block.removeprefix("UNetRes")] for block in types]
