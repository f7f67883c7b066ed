"""Single files of Stable Diffusion 1.x, 2.x and XL: the denoiser that they hold.

The authors' names, `model.diffusion_model.input_blocks.1.0...`, become diffusers'. What
else such a file holds is read by `kdiff_jax.latent` and `kdiff_jax.text`.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats import torch_modules
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.formats.pickle_objects import Stub
from kdiff_jax.interop import diffusers_condition, diffusers_options, schedulers_latent
from kdiff_jax.interop import diffusers_files as files
from kdiff_jax.interop.diffusers_names import read_weights
from kdiff_jax.interop.original import under
from kdiff_jax.interop.original_unet import renamed
from kdiff_jax.interop.source import Facts, Source, reject_malformed

ALONE, EMA = "diffusion_model.", "model_ema."
PREFIX = f"model.{ALONE}"
PREFIXES = (PREFIX, ALONE, "")
NUM_HEADS, HEAD_DIM = 8, 64  # of SD 1.x; of what has linear projections, SD 2.x and XL
NUM_GROUPS, TIME_DIM = 32, 256
SIDE, SIDE_XL = 64, 128  # of the latents, pixels
XL = dict(
    schedulers_latent.SD,
    _class_name="EulerDiscreteScheduler",
    timestep_spacing="leading",
    steps_offset=1,
)


class About(NamedTuple):
    """What a file does not say itself.

    Attributes:
        network: The network of a spec.
        cond_dim: Width of the text.
        shape: (H, W, C) of the latents.
        scheduler: Content of a scheduler_config.json; {} for the usual one.
        cond_length: Tokens of a text.
        around: Folder of the pipeline that said it.
        model_index: Content of its model_index.json.
    """

    network: dict[str, Any]
    cond_dim: int
    shape: tuple[int, int, int]
    scheduler: Mapping[str, Any]
    cond_length: int = diffusers_condition.TOKENS
    around: pathlib.Path | None = None
    model_index: Mapping[str, Any] = {}


FOLDERS = False  # what it reads, see `foreign.families`
TAKES_CONFIG = True  # see `Facts.config`


def matches(content: Any) -> bool:
    """Whether this is such a file, or a training state with one."""
    names = [name for name in _arrays(content) if isinstance(name, str)]
    return any("input_blocks.0.0.weight" in name for name in names) and any(
        ".transformer_blocks.0.attn2." in name for name in names
    )


@reject_malformed
def convert(content: Any, facts: Facts) -> Source:
    """The denoiser in our terms; of a training state its moving average if it has one.

    Raises:
        CheckpointError: If it is another network. One line.
    """
    own, said = _denoiser(_arrays(content))
    tensors = renamed(own)
    leaves = read_weights(tensors)
    shapes = {name: tuple(leaf.shape) for name, leaf in tensors.items()}
    if facts.config is None:
        about, assumed = _of_file(shapes, facts)
    else:
        about, assumed = _like(pathlib.Path(facts.config), facts), []
    network = about.network
    groups = {path: leaf.shape for path, leaf in leaves.items()}
    diffusers_options.check_groups(groups, network["num_groups"], None)
    kind = str(about.model_index.get("_class_name", ""))
    parts, more = schedulers_latent.read(about.scheduler, facts, kind)
    spec: dict[str, Any] = dict(
        network=network,
        **parts,
        image_shape=[*about.shape],
        num_classes=0,
        cond_dim=about.cond_dim,
        cond_length=about.cond_length,
        space="latents",
    )
    if about.model_index:
        spec[diffusers_condition.PIPELINE] = str(about.around)
    return Source(spec, leaves, (*said, *assumed, *more))


def _arrays(content: Any) -> Mapping[str, Lazy]:
    """{name: array} of a file, without what a trainer puts around it."""
    inside = content.get("state_dict") if isinstance(content, Mapping) else None
    content = inside if isinstance(inside, Mapping | Stub) else content
    if not isinstance(content, Mapping | Stub):
        return {}
    try:
        return torch_modules.arrays(content)
    except CheckpointError:
        return {}  # no state dict


def _denoiser(arrays: Mapping[str, Lazy]) -> tuple[dict[str, Lazy], list[str]]:
    """(the denoiser's arrays, a line that says if they are an average)."""
    own = next(found for p in PREFIXES if (found := _of_unet(under(p, arrays))))
    averages = {name: _average_of(name) for name in own}
    if not all(average in arrays for average in averages.values()):
        return own, []
    taken = {name: arrays[average] for name, average in averages.items()}
    return taken, [f"weights={EMA!r}: the moving average, and not {PREFIX!r} beside it"]


def _of_unet(arrays: Mapping[str, Lazy]) -> dict[str, Lazy]:
    if "input_blocks.0.0.weight" not in arrays:
        return {}
    parts = ("time_embed", "label_emb", "input_blocks", "middle_block", "output_blocks")
    return {k: v for k, v in arrays.items() if k.split(".")[0] in (*parts, "out")}


def _average_of(name: str) -> str:
    """Where the trainer keeps the moving average: the name without its points."""
    return EMA + f"{ALONE}{name}".replace(".", "")


def _of_file(
    shapes: Mapping[str, tuple[int, ...]], facts: Facts
) -> tuple[About, list[str]]:
    """What the shapes of a file's arrays and the released networks say."""
    network, cond_dim, assumed = _of_shapes(shapes, facts)
    is_xl = "added_dim" in network
    side = facts.image_size or (SIDE_XL if is_xl else SIDE)
    if facts.image_size is None:
        assumed.append(f"image_size={side}: of the latents, an eighth of the images'")
    channels, taken = shapes["conv_out.weight"][0], shapes["conv_in.weight"][1]
    if channels != taken:
        raise CheckpointError(
            f"it takes {taken} channels and gives {channels}: networks that paint in or"
            " make depth are not read"
        )
    shape = side, side, channels
    return About(network, cond_dim, shape, XL if is_xl else {}), assumed


def _of_shapes(
    shapes: Mapping[str, tuple[int, ...]], facts: Facts
) -> tuple[dict[str, Any], int, list[str]]:
    """(network of a spec, width of the text, what was assumed), of diffusers' names."""

    def count(pattern: str) -> int:
        found = [int(m[1]) for k in shapes if (m := re.match(pattern, k))]
        return max(found, default=-1) + 1

    def depths(way: str, level: int) -> int | list[int]:
        block = rf"{way}_blocks\.{level}\."
        found = [
            count(rf"{block}attentions\.{i}\.transformer_blocks\.(\d+)\.")
            for i in range(count(rf"{block}resnets\.(\d+)\."))
        ]
        return found[0] if len(set(found)) == 1 else found

    levels = count(r"down_blocks\.(\d+)\.")
    widths = [
        shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)
    ]
    channels, emb = (
        shapes["conv_in.weight"][0],
        shapes["time_embedding.linear_1.weight"],
    )
    down = [depths("down", i) for i in range(levels)]
    up = [depths("up", i) for i in range(levels)]
    is_linear = all(
        len(s) == 2 for k, s in shapes.items() if k.endswith("proj_in.weight")
    )
    heads, assumed = _num_heads(widths, is_linear, facts)
    blocks = [count(rf"down_blocks\.{i}\.resnets\.(\d+)\.") for i in range(levels)]
    mid = count(r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\.")
    network: dict[str, Any] = dict(
        name=diffusers_condition.NETWORK,
        channels=channels,
        channel_mult=[width // channels for width in widths],
        num_blocks=blocks[0] if len(set(blocks)) == 1 else blocks,
        depths=down,
        mid_depth=mid if count(r"mid_block\.resnets\.(\d+)\.") else None,
        num_heads=heads,
        linear_projection=is_linear,
        num_groups=NUM_GROUPS,
    )
    if any(width % channels for width in widths):
        network["widths"] = widths
    if up != down[::-1]:
        network["up_depths"] = up
    if emb[0] != 4 * channels:
        network["emb_channels"] = emb[0]
    if (added := shapes.get("add_embedding.linear_1.weight")) is not None:
        network |= dict(added_dim=added[1], added_time_dim=TIME_DIM)
    text = next(s for k, s in shapes.items() if k.endswith("attn2.to_k.weight"))
    return network, text[1], assumed


def _num_heads(
    widths: list[int], is_linear: bool, facts: Facts
) -> tuple[int | list[int], list[str]]:
    """(heads of each level, the line that says so); no file names them."""
    if facts.num_heads is not None:
        return facts.num_heads, []
    divisor = HEAD_DIM if is_linear else NUM_HEADS
    if any(width % divisor for width in widths):
        raise CheckpointError(
            f"widths={widths}: {divisor} {'channels a head' if is_linear else 'heads'},"
            " as released networks have, do not divide them; give config=FOLDER, the"
            " unet/ of diffusers"
        )
    if not is_linear:
        return NUM_HEADS, [f"num_heads={NUM_HEADS}: those of Stable Diffusion 1.x"]
    heads = [width // HEAD_DIM for width in widths]
    return heads, [
        f"num_heads={heads}: {HEAD_DIM} channels each, as SD 2.x and XL have"
    ]


def _like(path: pathlib.Path, facts: Facts) -> About:
    """What the folder of a pipeline, a network's or its config.json say of the file."""
    if not path.exists():
        raise CheckpointError(f"config={str(path)!r}: does not exist")
    home = path / "unet" if (path / "unet").is_dir() else path
    config = home / files.CONFIG if home.is_dir() else home
    values = files.read_json(config)
    if values.get("_class_name") != diffusers_condition.CLASS:
        raise CheckpointError(
            f"config={str(config)!r}: is of no {diffusers_condition.CLASS}; give its"
            " unet/"
        )
    network, shape, cond_dim = diffusers_condition.read_config(values, facts)
    around = config.absolute().parent.parent
    return About(
        network,
        cond_dim,
        shape,
        files.read_json(around / "scheduler" / files.SCHEDULER),
        diffusers_condition.cond_length(around)[0],
        around,
        files.read_json(around / files.INDEX),
    )
