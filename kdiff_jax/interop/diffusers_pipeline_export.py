"""Stable Diffusion's U-Net as a pipeline folder that diffusers loads.

The network and its scheduler are written; text encoders, tokenizers, autoencoder and
whatever else a pipeline has are copied from the one that the model came from. A model
that has trained them itself has its own, see `pipeline_parts_export`.
"""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdiff_jax import __version__, networks
from kdiff_jax.errors import CheckpointError
from kdiff_jax.files import write_atomically
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.interop import (
    diffusers_condition,
    diffusers_names,
    diffusers_options,
    schedulers_latent,
    schedulers_latent_export,
)
from kdiff_jax.interop import diffusers_files as files
from kdiff_jax.interop import pipeline_parts_export as own_parts
from kdiff_jax.interop.diffusers_condition import CLASS, NETWORK, PIPELINE
from kdiff_jax.interop.diffusers_options import json_text
from kdiff_jax.interop.schedulers_export import refused
from kdiff_jax.interop.source import Facts
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.trees import flatten

UNET, SCHEDULER, CARD = "unet", "scheduler", "README.md"
TEXT = """\
---
library_name: diffusers
---

# A diffusion model of text to image

`{klass}` of {millions:.2f} million parameters, written by kdiff_jax {version}.
Called like this, it walks as its own sampler there ({sampler}):

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(folder)
images = pipeline(prompts, {call}).images
```
{note}"""
ALONE = """
There is no pipeline here, but the network and its scheduler; copy unet/ and scheduler/
into one of text encoders and an autoencoder that fit.
"""


def save(
    folder,
    model,
    *,
    num_steps: int | None = None,
    pipeline: str | None = None,
    tokenizer: pathlib.Path | None = None,
) -> pathlib.Path:
    """Writes unet/, scheduler/, the parts of a pipeline, its index and a card.

    Args:
        folder: Made where it does not exist; a model in it is replaced.
        model: An `interop.Model`.
        num_steps: Number of sampling steps; None for those of the model's sampler.
        pipeline: Folder that the other parts are copied from; None for that which the
            model came from, if it is there, or the model's own parts, or none.
        tokenizer: Folder with the tokenizer of the model's own text encoder.

    Raises:
        CheckpointError: If diffusers cannot express the network or the sampler, or the
            pipeline is of another network. One line; nothing is written.
    """
    model.check_alone("diffusers")
    spec = model.spec.unguided()
    config = network_config(spec)
    leaves = {k: lazy.of(np.asarray(v)) for k, v in flatten(model.params).items()}
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    diffusers_options.check_groups(shapes, config["norm_num_groups"], None)
    home = _home(model.spec, pipeline)
    index = files.read_json(home / files.INDEX) if home else {}
    own = home is None and own_parts.has_all(model, tokenizer)
    if home:
        config |= _check_fits(home, index, config)
    elif own:
        own_parts.check(spec)
        index = own_parts.index()
    scheduler, call = _scheduler(spec, home, index, num_steps)

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / files.INDEX).unlink(missing_ok=True)
    (folder / UNET / files.CONFIG).unlink(missing_ok=True)
    if home:
        for part in _parts(home, index):
            shutil.copytree(home / part, folder / part, dirs_exist_ok=True)
    elif own and tokenizer:
        own_parts.write(folder, model, tokenizer)
    for part in (UNET, SCHEDULER):
        (folder / part).mkdir(exist_ok=True)
    weights = folder / UNET / f"{files.WEIGHTS}.safetensors"
    tensors.write(weights, diffusers_names.state_dict(leaves), {"format": "pt"})
    write_atomically(folder / SCHEDULER / files.SCHEDULER, json_text(scheduler))
    # Which the pipelines take to be 7.5 or so, unless they are told.
    call = {**call, "guidance_scale": model.spec.guidance}
    card = TEXT.format(
        klass=CLASS,
        millions=model.num_params / 1e6,
        version=__version__,
        sampler=", ".join(f"{k}={v}" for k, v in model.spec.sampler.plain().items()),
        call=", ".join(f"{k}={v!r}" for k, v in call.items()),
        note="" if home or own else ALONE,
    )
    write_atomically(folder / CARD, card)
    write_atomically(folder / UNET / files.CONFIG, json_text(config))
    if home:
        index[SCHEDULER] = ["diffusers", scheduler["_class_name"]]
        # What is listed without a folder, as a safety checker, is no part; of null
        # diffusers knows it.
        for name in _named(index).difference(_parts(home, index), (UNET, SCHEDULER)):
            index[name] = [None, None]
    if own:
        index[SCHEDULER] = ["diffusers", scheduler["_class_name"]]
    if home or own:
        # The index comes last: a folder without it is no pipeline.
        write_atomically(folder / files.INDEX, json_text(index))
    return folder


def _home(spec: Spec, pipeline: str | None) -> pathlib.Path | None:
    """The folder that the other parts come from."""
    if pipeline is not None:
        home = pathlib.Path(pipeline).expanduser()
        if not (home / files.INDEX).is_file():
            raise CheckpointError(
                f"pipeline={pipeline!r}: has no {files.INDEX}; give a pipeline's folder"
            )
        return home
    known = spec.facts.get(PIPELINE)
    home = pathlib.Path(known) if isinstance(known, str) else None
    return home if home and (home / files.INDEX).is_file() else None


def _check_fits(
    home: pathlib.Path, index: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of the pipeline's own network that tell diffusers how to compute.

    Raises:
        CheckpointError: If the other parts are not those of such a network.
    """
    named = index.get(UNET)
    if not (isinstance(named, list) and named[-1:] == [CLASS]):
        raise CheckpointError(
            f"pipeline={str(home)!r}: has no {CLASS} but {named}; give one of Stable"
            " Diffusion"
        )
    theirs = files.read_json(home / UNET / files.CONFIG)
    for name in ("cross_attention_dim", "in_channels", "addition_embed_type"):
        default = diffusers_condition.OPTIONS[name].default
        expected, found = theirs.get(name, default), config.get(name, default)
        if theirs and expected != found:
            raise CheckpointError(
                f"pipeline={str(home)!r}: its network has {name}={expected!r}, this one"
                f" {found!r}; give a pipeline of the same encoders"
            )
    return {key: theirs[key] for key in ("upcast_attention",) if key in theirs}


def _parts(home: pathlib.Path, index: Mapping[str, Any]) -> list[str]:
    """The folders of the other parts; what is null, or listed without one, is none."""
    return [
        name
        for name in sorted(_named(index) - {UNET, SCHEDULER})
        if pathlib.PurePath(name).name == name and (home / name).is_dir()
    ]


def _named(index: Mapping[str, Any]) -> set[str]:
    """The parts that an index lists, but for those that are null."""
    lists = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2}
    return {name for name, value in lists.items() if any(value)}


def _scheduler(
    spec: Spec, home: pathlib.Path | None, index, num_steps: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(its config, keywords of the call): the pipeline's if the sampler is still that.

    What no file says, as the number of steps, does not count.
    """
    assert spec.sampler is not None
    steps = num_steps or spec.sampler.keywords["num_steps"]
    own = files.read_json(home / SCHEDULER / files.SCHEDULER if home else None)
    if own:
        facts = Facts(num_steps=steps)
        kind = str(index.get("_class_name", ""))
        parts, _ = schedulers_latent.read(own, facts, kind)
        mine = {key: getattr(spec, key).plain() for key in parts}
        mine["sampler"]["num_steps"] = steps
        if Spec.of({**spec.plain(), **parts}) == Spec.of({**spec.plain(), **mine}):
            return own, dict(num_inference_steps=steps)
    made = schedulers_latent_export.make(spec, steps)
    return made.config, made.call


def network_config(spec: Spec) -> dict[str, Any]:
    """config.json of a model's network.

    Raises:
        CheckpointError: If `UNet2DConditionModel` cannot hold it. One line.
    """
    if (name := spec.network.name) != NETWORK:
        raise refused("network", name, f"{CLASS}, our {NETWORK}")
    net: Any = spec.network.call(networks.make)
    height, width, channels = spec.image_shape
    widths = list(net.widths or [net.channels * m for m in net.channel_mult])
    if widths[0] != net.channels:
        raise refused("channel_mult", net.channel_mult, "a first width of channels")
    config = dict(
        _class_name=CLASS,
        sample_size=height if height == width else [height, width],
        in_channels=channels,
        out_channels=channels,
        center_input_sample=net.center_input,
        flip_sin_to_cos=net.flip_sin_to_cos,
        freq_shift=diffusers_options.whole(net.freq_shift),
        block_out_channels=widths,
        layers_per_block=_plain(net.num_blocks),
        downsample_padding=net.downsample_padding,
        mid_block_scale_factor=diffusers_options.whole(net.mid_divisor),
        act_fn="silu",
        norm_num_groups=net.num_groups,
        norm_eps=net.norm_eps,
        cross_attention_dim=spec.cond_dim,
        attention_head_dim=_plain(net.num_heads),
        use_linear_projection=net.linear_projection,
        **_blocks(net, len(widths)),
    )
    # Options that the first versions of diffusers do not know.
    if net.dropout:
        config["dropout"] = net.dropout
    if net.emb_channels is not None:
        config["time_embedding_dim"] = net.emb_channels
    if net.scale_shift:
        config["resnet_time_scale_shift"] = "scale_shift"
    if net.added_dim:
        config |= dict(
            addition_embed_type="text_time",
            addition_time_embed_dim=net.added_time_dim,
            projection_class_embeddings_input_dim=net.added_dim,
        )
    return config


def _blocks(net, levels: int) -> dict[str, Any]:
    """Kinds of blocks, and how deep their transformers are."""
    down = list(net.depths)
    up = list(net.up_depths or net.depths[::-1])
    # A level without transformers says what the bottleneck has, or anything.
    deep = [_plain(d) or 1 for d in down]
    if net.mid_depth and not down[-1]:
        deep[-1] = net.mid_depth
    last = deep[-1] if isinstance(deep[-1], int) else deep[-1][0]
    if net.mid_depth and last != net.mid_depth:
        ways = f"as many blocks as its last level with transformers, {last}"
        raise refused("mid_depth", net.mid_depth, ways)
    back = [_plain(d) or 1 for d in up]
    told = deep[::-1]
    nested = any(isinstance(d, list) for d in deep)
    if not nested and all(
        not u or t == b for u, t, b in zip(up, told, back, strict=True)
    ):
        back = None
    mid = {None: None, 0: "UNetMidBlock2D"}
    names = [
        {kind: name for name, kind in known.items()}
        for known in (diffusers_condition.DOWN, diffusers_condition.UP)
    ]
    found: dict[str, Any] = dict(
        down_block_types=[names[0][bool(d)] for d in down],
        mid_block_type=mid.get(net.mid_depth, "UNetMidBlock2DCrossAttn"),
        up_block_types=[names[1][bool(d)] for d in up],
    )
    if deep != [1] * levels:
        found["transformer_layers_per_block"] = deep
    if back is not None:
        found["reverse_transformer_layers_per_block"] = back
    return found


def _plain(value):
    """Tuples as JSON's lists."""
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
