"""A SongUNet or ADM network as the state dict that NVlabs/edm's code loads.

The inverse of `edm`'s reading of state dicts, buffers included, so that a strict
`load_state_dict` of the reference's preconditioned network succeeds.
"""

import re
from collections.abc import Mapping

import numpy as np

from kdiff_jax.diffusion.noise_levels import iddpm_levels
from kdiff_jax.formats import lazy
from kdiff_jax.formats.lazy import Lazy
from kdiff_jax.interop.spec import Spec

NETWORKS = ("song_unet", "adm_unet")


def state_dict(spec: Spec, leaves: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """{"model.enc.16x16_conv.weight": array} in PyTorch's layout.

    Args:
        spec: The model's; its network is one of `NETWORKS`.
        leaves: {"enc_16x16_conv/kernel": array} of our parameters.
    """
    found = {f"model.{_name(path)}": _leaf(leaf) for path, leaf in leaves.items()}
    fields = spec.network.keywords
    row = np.asarray(fields.get("taps", (1, 1)), np.float32)
    taps = (np.outer(row, row) / row.sum() ** 2)[None, None]
    for name in _resampled(leaves, skips=fields.get("decoder") == "skip"):
        found[f"model.{name}.resample_filter"] = lazy.of(taps)
    if spec.precondition.name == "iddpm":
        levels = iddpm_levels(**spec.precondition.keywords)
        found["u"] = lazy.of(levels.astype(np.float32))
    return found


def _name(path: str) -> str:
    """The reference's name of one of our parameters."""
    *parts, leaf = path.split("/")
    if parts[0].startswith(("enc_", "dec_")):
        parts[0] = parts[0].replace("_", ".", 1)
    return ".".join((*parts, "weight" if leaf in ("kernel", "scale") else leaf))


def _leaf(leaf: Lazy) -> Lazy:
    """Linear [out, in], Conv [out, in, H, W]."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(leaf.shape))
    return leaf.transpose(*axes) if axes else leaf


def _resampled(leaves: Mapping[str, Lazy], *, skips: bool) -> list[str]:
    """The modules of the reference that hold the resampling filter as a buffer."""
    blocks = {p.split("/")[0].replace("_", ".", 1) for p in leaves}
    found = []
    for block in sorted(blocks):
        if re.fullmatch(r"(enc\.\w+_down|dec\.\w+_up)", block):
            found += [f"{block}.conv0", f"{block}.skip"]
        elif block.endswith("_aux_residual"):
            found.append(block)
        elif block.endswith("_aux_skip"):
            found.append(block.replace("_aux_skip", "_aux_down"))
    if skips:
        aux = [b for b in blocks if b.startswith("dec.") and b.endswith("_aux_conv")]
        sizes = sorted(int(re.findall(r"\d+", b)[0]) for b in aux)
        found += [f"dec.{size}x{size}_aux_up" for size in sizes[1:]]
    return found
