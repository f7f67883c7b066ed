"""DiT as folders that diffusers loads: transformer/ and scheduler/."""

import pathlib
from typing import Any

import numpy as np

from kdiff_jax import __version__, networks
from kdiff_jax.errors import CheckpointError
from kdiff_jax.files import write_atomically
from kdiff_jax.formats import lazy, tensors
from kdiff_jax.interop import diffusers_files as files
from kdiff_jax.interop import dit_names, schedulers_latent_export
from kdiff_jax.interop.diffusers_dit import CLASSES, GELUS
from kdiff_jax.interop.diffusers_options import json_text
from kdiff_jax.interop.schedulers_export import refused
from kdiff_jax.interop.spec import Spec
from kdiff_jax.interop.trees import flatten

NETWORK = "dit"
TRANSFORMER, SCHEDULER, CARD = "transformer", "scheduler", "README.md"
TEXT = """\
---
library_name: diffusers
---

# A diffusion transformer of classes

`{klass}` of {millions:.2f} million parameters, written by kdiff_jax {version}. Its
autoencoder is not here: give a pipeline yours.

```python
from diffusers import AutoencoderKL, DiTPipeline, {klass}, {scheduler}

pipeline = DiTPipeline(
    {klass}.from_pretrained(folder, subfolder="transformer"),
    AutoencoderKL.from_pretrained(autoencoder),
    {scheduler}.from_pretrained(folder, subfolder="scheduler"),
)
images = pipeline(class_labels, {call}).images
```

That pipeline takes number 1000 for no class, and there are {num_classes} classes.
"""


def save(folder, model, *, num_steps: int | None = None) -> pathlib.Path:
    """Writes transformer/, scheduler/ and a card.

    Args:
        folder: Made where it does not exist; a model in it is replaced.
        model: An `interop.Model`.
        num_steps: Number of sampling steps; None for those of the model's sampler.

    Raises:
        CheckpointError: If diffusers cannot express the network or the sampler. One
            line; nothing is written.
    """
    model.check_alone("diffusers")
    spec = model.spec.unguided()
    config = network_config(spec)
    steps = num_steps or spec.sampler.keywords["num_steps"]
    made = schedulers_latent_export.make(spec, steps)
    leaves = {k: lazy.of(np.asarray(v)) for k, v in flatten(model.params).items()}
    state = dit_names.to_diffusers(leaves, config["num_layers"])

    folder = pathlib.Path(folder)
    for part in (TRANSFORMER, SCHEDULER):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / TRANSFORMER / files.CONFIG).unlink(missing_ok=True)
    weights = folder / TRANSFORMER / f"{files.WEIGHTS}.safetensors"
    tensors.write(weights, state, {"format": "pt"})
    write_atomically(folder / SCHEDULER / files.SCHEDULER, json_text(made.config))
    # Which the pipeline takes to be 4, unless it is told.
    call = {**made.call, "guidance_scale": model.spec.guidance}
    card = TEXT.format(
        klass=CLASSES[0],
        scheduler=made.config["_class_name"],
        millions=model.num_params / 1e6,
        version=__version__,
        call=", ".join(f"{k}={v!r}" for k, v in call.items()),
        num_classes=spec.num_classes,
    )
    write_atomically(folder / CARD, card)
    # The config comes last: a folder without it holds no model.
    write_atomically(folder / TRANSFORMER / files.CONFIG, json_text(config))
    return folder


def network_config(spec: Spec) -> dict[str, Any]:
    """config.json of a model's network.

    Raises:
        CheckpointError: If `DiTTransformer2DModel` cannot hold it. One line.
    """
    net: Any = spec.network.call(networks.make)
    height, width, channels = spec.image_shape
    if net.freq_shift != 1:
        raise CheckpointError(
            f"freq_shift={net.freq_shift:g}: diffusers' DiT has 1, another function of"
            " the time than its authors'; take --target=safetensors, the authors' names"
        )
    for name, value, wanted in (
        ("mlp_ratio", net.mlp_ratio, 4),
        ("augment_dim", spec.augment_dim, 0),
        ("cond_dim", spec.cond_dim, 0),
        ("image_shape", (height, width), (height, height)),
    ):
        if value != wanted:
            raise refused(name, value, f"DiT with {name}={wanted}")
    if not spec.num_classes:
        raise refused("num_classes", 0, "DiT with a table of classes")
    gelus = {ours: theirs for theirs, ours in GELUS.items()}
    return dict(
        _class_name=CLASSES[0],
        num_attention_heads=net.num_heads,
        attention_head_dim=net.channels // net.num_heads,
        in_channels=channels,
        out_channels=channels * (2 if net.learned_variance else 1),
        num_layers=net.num_blocks,
        dropout=net.dropout,
        attention_bias=net.qkv_bias,
        sample_size=height,
        patch_size=net.patch_size,
        activation_fn=gelus[net.gelu],
        num_embeds_ada_norm=spec.num_classes,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        norm_eps=net.mlp_norm_eps,
    )
