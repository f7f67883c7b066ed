"""Checkpoints of yang-song/score_sde and openai/consistency_models_cifar10: Flax.

Their NCSN++ and DDPM++ (with BigGAN's residual blocks) are our `song_unet`; their
parameters are numbered by class in the order of construction, which is replayed here.
"""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop import averages
from kdiff_jax.interop.source import Facts, Source, reject_malformed

BLOCK, ATTENTION = "ResnetBlockBigGANpp", "AttnBlockpp"
KNOWN = (BLOCK, ATTENTION, "Conv", "Dense", "GroupNorm", "Downsample", "Combine") + (
    "GaussianFourierProjection",
)
PRECONDITIONS = ("boundary", "edm", "ve", "vp")
RANGES = {"ve": (0.02, 100.0)}  # of sigma, for images in [-1, 1]; else EDM's


FOLDERS = False  # what it reads, see `foreign.families`


def matches(content: Any) -> bool:
    """Whether this is a training state of that code, or its parameters alone."""
    classes = _classes(_params(content))
    return BLOCK in classes and "Dense" in classes


@reject_malformed
def convert(content: Any, facts: Facts) -> Source:
    """The moving average of a training state in our terms.

    Args:
        content: {"params_ema", ...}, or the parameters alone.
        facts: `precondition`: by default "vp" for DDPM++, "ve" for NCSN++, "boundary"
            for the state of a consistency model; "edm" for the latter's teacher.
            `image_size` where it is not 4 at the last level.

    Raises:
        CheckpointError: If it is another network. One line.
    """
    params = _params(content)
    classes = _classes(params)
    unknown = [name for name in classes if name not in KNOWN]
    if unknown:
        raise CheckpointError(f"its network has {unknown[0]}, which ours does not have")
    assumed = averages.of_state(content, "params_ema")
    assumed += ["skip_rescale=True, dropout=0.0: the file does not say"]
    blocks = [params[name] for name in classes[BLOCK]]
    kernel = params[classes["Conv"][0]]["kernel"]
    image_channels, channels = kernel.shape[2:]
    widths, num_blocks = _layout(blocks, channels)
    levels = len(widths)
    size = facts.image_size
    if size is None:
        size = 4 * 2 ** (levels - 1)
        assumed.append(f"image_size={size}: 4 at the last level, as in all configs")
    attentions = [params[name] for name in classes.get(ATTENTION, [])]
    attends = _attention_levels(attentions, widths, num_blocks, size, assumed)

    fourier = "GaussianFourierProjection" in classes
    convs, norms = classes["Conv"], classes["GroupNorm"]
    encoder = "residual" if "Downsample" in classes else "standard"
    encoder = "skip" if "Combine" in classes else encoder
    smooth = fourier or encoder != "standard"
    if encoder != "residual":
        assumed.append(f"fir={smooth}: the file does not say; as in its configs")
    emb = params[classes["Dense"][0]]["kernel"].shape
    network = dict(
        name="song_unet",
        channels=channels,
        channel_mult=[width // channels for width in widths],
        emb_mult=emb[1] // channels,
        noise_mult=emb[0] // channels,
        num_blocks=num_blocks,
        attn_resolutions=[size >> level for level in attends],
        embedding="fourier" if fourier else "positional",
        encoder=encoder,
        decoder="skip" if len(convs) > 2 else "standard",
        taps=[1, 3, 3, 1] if smooth else [1, 1],
        dropout=0.0,
    )
    if len(convs) not in (2, levels + 1) or len(norms) != len(convs) - 1:
        raise CheckpointError(
            f"its network has {len(convs)} convolutions outside of its blocks, and ours"
            f" 2 or {levels + 1}"
        )
    outputs = params[convs[-1]]["kernel"].shape[-1]
    if outputs != image_channels:
        raise CheckpointError(
            f"its network has {outputs} output channels for images of {image_channels};"
            " two outputs (double_heads) are not known"
        )
    spec = dict(
        network=network,
        **_process(content, fourier, facts, assumed),
        image_shape=[size, size, image_channels],
        num_classes=0,
        augment_dim=0,
    )
    order = _order(size, levels, num_blocks, attends, network["decoder"] == "skip")
    leaves: dict[str, Lazy] = {}
    for kind, paths in order.items():
        names = classes.get(kind, [])
        if len(names) not in (len(paths), 0) or (
            kind in (BLOCK, "Dense") and not names
        ):
            raise CheckpointError(
                f"its network has {len(names)} of {kind}, and ours {len(paths)}"
            )
        for name, path in zip(names, paths, strict=False):
            leaves |= {f"{path}/{k}": v for k, v in RENAME[kind](params[name]).items()}
    return Source(spec, leaves, tuple(assumed))


def _process(content, fourier: bool, facts: Facts, assumed) -> dict[str, Any]:
    """The preconditioning, process and sampler of the spec."""
    name = facts.precondition
    if name is None:
        name = "ve" if fourier else "vp"
        if "target_params" in content:
            name = "boundary"
        assumed.append(f"precondition={name!r}: the file does not say")
    if name not in PRECONDITIONS:
        raise CheckpointError(
            f"precondition={name!r}: networks of this family have one of"
            f" {', '.join(PRECONDITIONS)}"
        )
    sigma_min, sigma_max = RANGES.get(name, (0.002, 80.0))
    steps = ("ddim", 1) if name == "boundary" else ("heun", 18)
    return dict(
        precondition={"name": name},
        process={"name": "edm", "sigma_min": sigma_min, "sigma_max": sigma_max},
        sampler=facts.choose_sampler(*steps),
    )


def _layout(blocks, channels: int) -> tuple[list[int], int]:
    """(width of each level, encoder blocks per level).

    L levels of n blocks have L (2 n + 3) residual blocks in all, counting those that
    resample and the two of the bottleneck; the widths tell which L it is.
    """
    given = [
        (*(b["Conv_0"]["kernel"].shape[2:]), "Conv_2" in b) for b in blocks
    ]  # (in, out, has a shortcut convolution)
    total, fitting = len(blocks), []
    for levels in range(1, total + 1):
        num_blocks, rest = divmod(total // levels - 3, 2)
        if total % levels or rest or num_blocks < 1:
            continue
        widths = [given[i * (num_blocks + 1)][1] for i in range(levels)]
        if given == _channels(widths, num_blocks, channels):
            fitting.append((widths, num_blocks))
    if len(fitting) != 1 or any(width % channels for width in fitting[0][0]):
        raise CheckpointError(
            f"its {total} residual blocks are not those of one known network; known are"
            " NCSN++ and DDPM++"
        )
    return fitting[0]


def _channels(widths, num_blocks: int, channels: int) -> list[tuple[int, int, bool]]:
    """(in, out, has a shortcut convolution) of every residual block, in order."""
    blocks, skips, now = [], [channels], channels

    def add(width, more=0, resample=False):
        nonlocal now
        blocks.append((now + more, width, resample or now + more != width))
        now = width

    for level, width in enumerate(widths):
        for _ in range(num_blocks):
            add(width)
            skips.append(now)
        if level < len(widths) - 1:
            add(now, resample=True)
            skips.append(now)
    add(now)
    add(now)
    for level in reversed(range(len(widths))):
        for _ in range(num_blocks + 1):
            add(widths[level], more=skips.pop())
        if level > 0:
            add(now, resample=True)
    return blocks


def _attention_levels(attentions, widths, num_blocks: int, size: int, assumed):
    """The levels with attention: n blocks each in the encoder, one in the decoder."""
    given = [a["NIN_0"]["W"].shape[0] for a in attentions]
    num_levels, rest = divmod(len(given) - 1, num_blocks + 1)
    fitting = [
        levels
        for levels in itertools.combinations(range(len(widths)), max(num_levels, 0))
        if given
        == [widths[i] for i in levels for _ in range(num_blocks)]
        + [widths[-1]]
        + [widths[i] for i in reversed(levels)]
    ]
    if rest or not fitting:
        raise CheckpointError(
            f"its {len(given)} attentions are not those of a known network"
        )
    if len(fitting) > 1:
        usual = [levels for levels in fitting if [size >> i for i in levels] == [16]]
        if not usual:
            raise CheckpointError(
                "its attentions could be at several image sizes, and 16 is not one of"
                " them; such a network is not known"
            )
        fitting = usual
        assumed.append("attn_resolutions=[16]: the shapes do not say")
    return fitting[0]


def _order(size, levels, num_blocks, attends, skip) -> dict[str, list[str]]:
    """{class: our paths in the order in which the modules are numbered}."""
    names = [f"{size >> level}x{size >> level}" for level in range(levels)]
    blocks, attentions, aux = [], [], []
    for level, name in enumerate(names):
        if level > 0:
            blocks.append(f"enc_{name}_down")
            aux.append(f"enc_{name}_aux")
        for i in range(num_blocks):
            blocks.append(f"enc_{name}_block{i}")
            if level in attends:
                attentions.append(blocks[-1])
    blocks += [f"dec_{names[-1]}_in0", f"dec_{names[-1]}_in1"]
    attentions.append(blocks[-2])
    for level in reversed(range(levels)):
        if level < levels - 1:
            blocks.append(f"dec_{names[level]}_up")
        blocks += [f"dec_{names[level]}_block{i}" for i in range(num_blocks + 1)]
        if level in attends:
            attentions.append(blocks[-1])
    outs = [f"dec_{name}_aux" for name in (reversed(names) if skip else names[:1])]
    return {
        BLOCK: blocks,
        ATTENTION: attentions,
        "Downsample": [f"{path}_residual" for path in aux],
        "Combine": [f"{path}_skip" for path in aux],
        "Dense": ["map_layer0", "map_layer1"],
        "Conv": [f"enc_{names[0]}_conv", *(f"{path}_conv" for path in outs)],
        "GroupNorm": [f"{path}_norm" for path in outs],
        "GaussianFourierProjection": ["map_noise"],
    }


def _same(module) -> dict[str, Lazy]:
    return {name: leaf.astype(np.float32) for name, leaf in module.items()}


def _block(module) -> dict[str, Lazy]:
    names = dict(
        GroupNorm_0="norm0",
        Conv_0="conv0",
        Dense_0="affine",
        GroupNorm_1="norm1",
        Conv_1="conv1",
        Conv_2="skip",
    )
    return {f"{names[k]}/{n}": v for k in module for n, v in _same(module[k]).items()}


def _attention(module) -> dict[str, Lazy]:
    q, k, v, proj = (_same(module[f"NIN_{i}"]) for i in range(4))
    norm = {f"norm2/{n}": leaf for n, leaf in _same(module["GroupNorm_0"]).items()}
    width = proj["W"].shape[0]
    return norm | {
        "qkv/kernel": _alternating([q["W"], k["W"], v["W"]], 1, 1, width, 3 * width),
        "qkv/bias": _alternating([q["b"], k["b"], v["b"]], 3 * width),
        "proj/kernel": proj["W"].reshape(1, 1, width, width),
        "proj/bias": proj["b"],
    }


def _alternating(leaves: list[Lazy], *shape: int) -> Lazy:
    """q, k and v with their channels in turn, as ours has them."""
    if math.prod(shape) != sum(math.prod(leaf.shape) for leaf in leaves):
        raise CheckpointError("its q, k and v differ in shape")

    def read():
        return np.stack([leaf.read() for leaf in leaves], -1).reshape(shape)

    return Lazy(shape, np.dtype(np.float32), read)


RENAME = {
    BLOCK: _block,
    ATTENTION: _attention,
    "Downsample": lambda module: {
        {"weight": "kernel"}.get(k, k): v for k, v in _same(module["Conv2d_0"]).items()
    },
    "Combine": lambda module: _same(module["Conv_0"]),
    "Dense": _same,
    "Conv": _same,
    "GroupNorm": _same,
    "GaussianFourierProjection": lambda module: {"freqs": _same(module)["W"]},
}


def _params(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        return {}
    params = content.get("params_ema", content)
    return params if isinstance(params, Mapping) else {}


def _classes(params: Mapping[str, Any]) -> dict[str, list[str]]:
    """{class: names of its modules, in the order of their numbers}."""
    classes: dict[str, list[tuple[int, str]]] = {}
    for name in params:
        if found := re.match(r"(\w+)_(\d+)$", str(name)):
            classes.setdefault(found[1], []).append((int(found[2]), name))
    return {kind: [n for _, n in sorted(names)] for kind, names in classes.items()}
