"""A DDPM network as a folder that diffusers loads.

The folder is flat, as google/ddpm-cifar10-32 is: the network, the scheduler and the
pipeline's index lie side by side, so that `UNet2DModel.from_pretrained(folder)` and
`DiffusionPipeline.from_pretrained(folder)` both find theirs.
"""

import pathlib
from typing import Any

import numpy as np

from kdiff_jax import __version__, networks
from kdiff_jax.files import write_atomically
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.interop import (
    diffusers,
    diffusers_condition,
    diffusers_dit_export,
    diffusers_files,
    diffusers_names,
    diffusers_options,
    diffusers_pipeline_export,
    schedulers_export,
)
from kdiff_jax.interop.diffusers_options import json_text
from kdiff_jax.interop.schedulers_export import Scheduler, refused
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.trees import flatten

CARD = "README.md"
PIPELINE = """\
```python
from diffusers import {pipeline}

pipeline = {pipeline}.from_pretrained(folder)
images = pipeline(batch_size=16, {call}).images
```
"""
# No pipeline of diffusers hands labels to such a network.
LOOP = """\
```python
import torch
from diffusers import {scheduler}, UNet2DModel

unet = UNet2DModel.from_pretrained(folder)
scheduler = {scheduler}.from_pretrained(folder)
y = torch.arange(16) % unet.config.num_class_embeds
x = torch.randn(16, {channels}, {height}, {width})
scheduler.set_timesteps({steps})
with torch.no_grad():
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t, y).sample, t, x{more}).prev_sample
```
"""
TEXT = """\
---
library_name: diffusers
---

# A diffusion model of {height}x{width} images

`UNet2DModel` of {millions:.2f} million parameters, written by kdiff_jax {version}.
Called like this, it gives the images of its own sampler there ({sampler}):

{code}
A scheduler's config cannot hold this part of the call:
`{call}`
Without it you get another sampler.
"""


def save(
    folder,
    model,
    *,
    num_steps: int | None = None,
    pipeline: str | None = None,
    tokenizer: pathlib.Path | None = None,
) -> pathlib.Path:
    """Writes config.json, the weights, scheduler_config.json, the index and a card.

    A network of Stable Diffusion becomes a pipeline, see `diffusers_pipeline_export`;
    of a DiT see `diffusers_dit_export`.

    Args:
        folder: Made where it does not exist; a model in it is replaced.
        model: An `interop.Model`.
        num_steps: Number of sampling steps; 1 for a one-step student, None for those
            of the model's sampler.
        pipeline: Pipeline of Stable Diffusion whose other parts are copied.
        tokenizer: Folder with the tokenizer of a model that has its own text encoder.

    Raises:
        CheckpointError: If diffusers cannot express the network or the sampler. One
            line; nothing is written.
    """
    if model.spec.network.name == diffusers_condition.NETWORK:
        about: dict[str, Any] = dict(pipeline=pipeline, tokenizer=tokenizer)
        return diffusers_pipeline_export.save(
            folder, model, num_steps=num_steps, **about
        )
    if pipeline is not None:
        raise refused("pipeline", pipeline, "none for this network, leave it out")
    if model.spec.network.name == diffusers_dit_export.NETWORK:
        return diffusers_dit_export.save(folder, model, num_steps=num_steps)
    model.check_alone("diffusers")
    spec = model.spec
    leaves = {k: lazy.of(np.asarray(v)) for k, v in flatten(model.params).items()}
    config = network_config(spec)
    shapes = {k: leaf.shape for k, leaf in leaves.items()}
    net = _module(spec)
    diffusers_options.check_groups(shapes, net.num_groups, net.mid_num_groups)
    scheduler = schedulers_export.make(spec, num_steps)

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / diffusers_files.CONFIG).unlink(missing_ok=True)
    # Readers of PyTorch's safetensors want that one line of metadata.
    weights = folder / f"{diffusers_files.WEIGHTS}.safetensors"
    tensors.write(weights, diffusers_names.state_dict(leaves), {"format": "pt"})
    write_atomically(folder / diffusers_files.SCHEDULER, json_text(scheduler.config))
    index = {
        "_class_name": scheduler.pipeline,
        "scheduler": ["diffusers", scheduler.config["_class_name"]],
        "unet": ["diffusers", diffusers.CLASS],
    }
    (folder / diffusers_files.INDEX).unlink(missing_ok=True)
    if _has_pipeline(spec, scheduler):
        write_atomically(folder / diffusers_files.INDEX, json_text(index))
    write_atomically(folder / CARD, _card(model, scheduler))
    # The config comes last: a folder without it holds no model.
    write_atomically(folder / diffusers_files.CONFIG, json_text(config))
    return folder


def network_config(spec: Spec) -> dict[str, Any]:
    """config.json of a model's network.

    Raises:
        CheckpointError: If `UNet2DModel` cannot hold it. One line.
    """
    if (name := spec.network.name) != "ddpm_unet":
        raise refused("network", name, "UNet2DModel, our ddpm_unet", trained=True)
    if (dim := spec.augment_dim) != 0:
        raise refused("augment_dim", dim, "no such label, 0", trained=True)
    net = _module(spec)
    height, width, channels = spec.image_shape
    widths = net.widths or [net.channels * m for m in net.channel_mult]
    names = [
        {kind: name for name, kind in known.items()}
        for known in (diffusers.DOWN, diffusers.UP)
    ]
    sizes = [height >> level for level in range(len(widths))]
    auto = ["Attn" if size in net.attn_resolutions else "" for size in sizes]
    config = dict(
        _class_name=diffusers.CLASS,
        sample_size=height if height == width else [height, width],
        in_channels=channels,
        out_channels=channels,
        center_input_sample=net.center_input,
        time_embedding_type="positional",
        freq_shift=diffusers_options.whole(net.freq_shift),
        flip_sin_to_cos=net.flip_sin_to_cos,
        down_block_types=[names[0][kind] for kind in net.down_blocks or auto],
        up_block_types=[names[1][kind] for kind in net.up_blocks or auto[::-1]],
        block_out_channels=list(widths),
        layers_per_block=net.num_blocks,
        mid_block_scale_factor=diffusers_options.whole(net.mid_divisor),
        downsample_padding=net.downsample_padding,
        downsample_type=net.resample_by[0],
        upsample_type=net.resample_by[1],
        dropout=net.dropout,
        act_fn="silu",
        attention_head_dim=net.head_dim,
        norm_num_groups=net.num_groups,
        attn_norm_num_groups=net.mid_num_groups,
        norm_eps=net.norm_eps,
        resnet_time_scale_shift="scale_shift" if net.scale_shift else "default",
        add_attention=net.mid_attention,
        class_embed_type=None,
        num_class_embeds=spec.num_classes or None,
    )
    # Options that older versions of diffusers do not know.
    if net.emb_channels is not None:
        config["time_embedding_dim"] = net.emb_channels
    if not net.mid_block:
        config["mid_block_type"] = None
    if widths[0] != net.channels:
        raise refused("channel_mult", net.channel_mult, "a first width of channels")
    return config


def _module(spec: Spec) -> Any:
    """The network, whose fields are those of the spec and defaults."""
    return spec.network.call(networks.make)


def _has_pipeline(spec: Spec, scheduler: Scheduler) -> bool:
    return not spec.num_classes or scheduler.pipeline == "ConsistencyModelPipeline"


def _card(model, scheduler: Scheduler) -> str:
    height, width, channels = model.image_shape
    call = dict(scheduler.call)
    shown = ", ".join(f"{k}={v!r}" for k, v in call.items())
    steps = call.pop("num_inference_steps")
    more = "".join(f", {k}={v!r}" for k, v in call.items())
    shape = dict(channels=channels, height=height, width=width)
    if _has_pipeline(model.spec, scheduler):
        code = PIPELINE.format(pipeline=scheduler.pipeline, call=shown)
    else:
        name = scheduler.config["_class_name"]
        code = LOOP.format(scheduler=name, steps=steps, more=more, **shape)
    return TEXT.format(
        millions=model.num_params / 1e6,
        version=__version__,
        sampler=", ".join(f"{k}={v}" for k, v in model.spec.sampler.plain().items()),
        code=code,
        call=shown,
        **shape,
    )
