"""Folders of diffusers with a `DiTTransformer2DModel`: DiT, of a `DiTPipeline`.

Diffusers' DiT is another function of the authors' tensors: see `networks.dit`.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from kdiff_jax.interop import diffusers_files as files
from kdiff_jax.interop import diffusers_options, dit, dit_names, schedulers
from kdiff_jax.interop.diffusers_files import SCHEDULER
from kdiff_jax.interop.options import Option, Unlike, only
from kdiff_jax.interop.source import Facts, Source

CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")  # of now, of 2022
GELUS = {"gelu-approximate": "tanh", "gelu": "exact"}
OPTIONS: dict[str, Option] = dict(
    num_attention_heads=Option(16),
    attention_head_dim=Option(72),
    in_channels=Option(4),
    out_channels=Option(None),
    num_layers=Option(28),
    dropout=Option(0.0),
    norm_num_groups=Option(32),  # of other transformers
    attention_bias=Option(True),
    sample_size=Option(32),
    patch_size=Option(2),
    activation_fn=Option("gelu-approximate", tuple(GELUS)),
    num_embeds_ada_norm=Option(1000),
    upcast_attention=Option(False),  # ours is in float32 always
    norm_type=only("ada_norm_zero"),
    norm_elementwise_affine=only(False),
    norm_eps=Option(1e-5),
    attention_type=only("default"),  # from here on of 2022's class
    interpolation_scale=Option(None, (None, 1, 1.0)),
)
# Where no scheduler is said: that of the published pipeline.
DEFAULT = dict(_class_name="DDIMScheduler", clip_sample=False)


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
    with diffusers_options.refusing():
        if config["_class_name"] != CLASSES[0] and "norm_type" not in config:
            raise Unlike("norm_type", None, f"{CLASSES[1]} with ada_norm_zero")
        options = diffusers_options.read(config, OPTIONS)
        network = _network(options)
        channels = options["in_channels"]
        square = dict(options, out_channels=channels)
        image_shape = [*diffusers_options.image_shape(square, facts)]
        if any(size % options["patch_size"] for size in image_shape[:2]):
            raise Unlike("sample_size", options["sample_size"], "whole patches")
    facts.agree(num_heads=network["num_heads"])
    off = diffusers_options.off(config, OPTIONS)
    tensors, weights, which = files.weights(home, variant=facts.variant)
    leaves, network["own_embeddings"] = dit_names.of_diffusers(tensors)
    if (stored := tensors.get("pos_embed.pos_embed")) is not None:
        grid = image_shape[0] // network["patch_size"]
        dit.check_positions(stored, grid, network["channels"])
    where, beside = files.scheduler(folder, home)
    parts, assumed = _scheduler(files.read_json(where), facts)
    facts.agree(precondition=parts["precondition"]["name"])
    num_classes = options["num_embeds_ada_norm"]
    spec = dict(
        network=network,
        **parts,
        image_shape=image_shape,
        num_classes=num_classes,
        null_prob=dit.NULL_PROB,
        space=dit.space_of(image_shape),
    )
    lines = *said, *diffusers_options.said_of(off, config), *which, *beside
    return Source(spec, leaves, (*lines, *assumed), weights)


def _network(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `networks.dit` of these options.

    Raises:
        Unlike: If a number is none, or gives no such network.
    """
    numbers = "num_attention_heads attention_head_dim in_channels num_layers patch_size"
    for name in (*numbers.split(), "num_embeds_ada_norm"):
        if type(options[name]) is not int or options[name] < 1:
            raise Unlike(name, options[name], "a number above 0")
    channels, outputs = options["in_channels"], options["out_channels"]
    outputs = channels if outputs is None else outputs
    if outputs not in (channels, 2 * channels):
        ways = f"{channels}, or {2 * channels} with a variance"
        raise Unlike("out_channels", outputs, ways)
    width = options["num_attention_heads"] * options["attention_head_dim"]
    if width % 4:
        raise Unlike(
            "attention_head_dim", options["attention_head_dim"], "a width of 4n"
        )
    return dict(
        name="dit",
        channels=width,
        num_blocks=options["num_layers"],
        num_heads=options["num_attention_heads"],
        patch_size=options["patch_size"],
        freq_shift=1.0,
        mlp_norm_eps=float(options["norm_eps"]),
        gelu=GELUS[options["activation_fn"]],
        qkv_bias=bool(options["attention_bias"]),
        dropout=float(options["dropout"]),
        learned_variance=outputs != channels,
    )


def _scheduler(config: Mapping[str, Any], facts: Facts):
    """What `schedulers.read` says of a config, without what its class does not take."""
    if not config:
        said = f"scheduler=DDIMScheduler of DiT's pipeline: there is no {SCHEDULER}"
        parts, assumed = schedulers.read(DEFAULT, facts, SCHEDULER)
        return parts, (said, *assumed)
    family = schedulers.FAMILIES.get(str(config.get("_class_name")))
    dropped = []
    if family:
        dropped = [k for k in config if k[:1] != "_" and k not in family.options]
    said = [f"{k}={config[k]!r}: no option of its scheduler, dropped" for k in dropped]
    kept = {k: v for k, v in config.items() if k not in dropped}
    parts, assumed = schedulers.read(kept, facts, SCHEDULER)
    return parts, (*said, *assumed)
