"""What names, shapes and buffers say of a network of NVlabs/edm."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdiff_jax.errors import CheckpointError
from kdiff_jax.formats.lazy import Lazy

ANCHOR = "map_layer0.weight"  # a parameter that every network of the family has


def of_shapes(leaves: Mapping[str, Lazy]) -> dict[str, Any]:
    """What names, shapes and buffers say, in the reference's keywords."""
    shape = {key: leaf.shape for key, leaf in leaves.items()}
    found = [re.match(r"enc\.(\d+)x\1_(\w+)", key) for key in leaves]
    sizes = sorted({int(m[1]) for m in found if m}, reverse=True)
    song = f"dec.{sizes[0]}x{sizes[0]}_aux_conv.weight" if sizes else ""
    if song in shape:
        name, out = "SongUNet", shape[song]
        channels = shape[f"enc.{sizes[0]}x{sizes[0]}_conv.weight"][0]
        noise = {"channel_mult_noise": shape[ANCHOR][1] / channels}
    else:
        name, out = "DhariwalUNet", shape["out_conv.weight"]
        channels, noise = shape[ANCHOR][1], {}
    widths = [shape[f"enc.{s}x{s}_block0.conv0.weight"][0] for s in sizes]
    mults = dict(
        channel_mult=[w / channels for w in widths],
        channel_mult_emb=shape[ANCHOR][0] / channels,
        **noise,
    )
    in_channels = shape[f"enc.{sizes[0]}x{sizes[0]}_conv.weight"][1]
    config: dict[str, Any] = dict(
        class_name=name,
        img_resolution=sizes[0],
        in_channels=in_channels,
        out_channels=out[0],
        label_dim=shape.get("map_label.weight", (0, 0))[1],
        augment_dim=shape.get("map_augment.weight", (0, 0))[1],
        model_channels=channels,
        num_blocks=sum(
            f"enc.{sizes[0]}x{sizes[0]}_block{i}.conv0.weight" in shape
            for i in range(len(shape))
        ),
        attn_resolutions=[
            s for s in sizes if f"enc.{s}x{s}_block0.qkv.weight" in shape
        ],
        **{
            k: [_exact(m) for m in v] if isinstance(v, list) else _exact(v)
            for k, v in mults.items()
        },
    )
    if sizes != [sizes[0] >> level for level in range(len(sizes))]:
        raise CheckpointError(f"checkpoint has levels {sizes}; each must halve another")
    taps = _taps([leaf for k, leaf in leaves.items() if k.endswith("resample_filter")])
    if name == "DhariwalUNet":
        if taps not in (None, [1, 1]):
            raise CheckpointError(f"resample_filter={taps}: DhariwalUNet has [1, 1]")
        return config
    fourier = "map_noise.freqs" in shape
    config["embedding_type"] = "fourier" if fourier else "positional"
    if len(sizes) > 1:
        small = f"{sizes[1]}x{sizes[1]}"
        for kind in ("skip", "residual"):
            if f"enc.{small}_aux_{kind}.weight" in shape:
                config["encoder_type"] = kind
        config.setdefault("encoder_type", "standard")
        skip = f"dec.{small}_aux_conv.weight" in shape
        config["decoder_type"] = "skip" if skip else "standard"
        if taps is None:
            raise CheckpointError(
                "checkpoint has no resample_filter; save the buffers with the weights"
            )
        config["resample_filter"] = taps
    return config


def _exact(ratio: float) -> int | float:
    """A whole number as int: widths are whole multiples, where all is well."""
    return round(ratio) if round(ratio) == ratio else ratio


def _taps(filters: list[Lazy]) -> list[int] | None:
    """The integers whose outer product the filters are; None without filters."""
    if not filters:
        return None
    first = filters[0].read()
    row = first.reshape(first.shape[-2:]).sum(0)
    taps = np.round(row / row.min()) if row.min() > 0 else row
    exact = np.outer(taps, taps) / taps.sum() ** 2
    if not all(
        f.shape == first.shape and np.allclose(f.read()[0, 0], exact, atol=1e-6)
        for f in filters
    ):
        raise CheckpointError(
            "resample_filter: not the outer product of positive integers, the same"
            " everywhere; such a filter is not known"
        )
    return [int(tap) for tap in taps]
