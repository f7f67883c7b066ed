"""Stable Diffusion's U-Nets against the diffusers library itself.

diffusers and PyTorch are no dependencies of kdiff_jax: they live in an environment of
their own (diffusers 0.42.1, transformers 5.24.0, torch 2.13.0), here called theirs/.

    theirs/bin/python benchmarks/compare_stable_diffusion.py fixtures tests/parity/data

`fixtures` writes what the library gives for tiny networks of each kind, in float64 and
with weights of `tests/named_weights.py`: tests/parity/data/unet2d_condition.npz.
"""

import argparse
import importlib
import pathlib
import sys
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
PLAIN: dict[str, Any] = dict(
    sample_size=8,
    down_block_types=(CROSS[0], "DownBlock2D"),
    up_block_types=("UpBlock2D", CROSS[1]),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=12,
    attention_head_dim=2,
)
XL = PLAIN | dict(
    down_block_types=("DownBlock2D", CROSS[0]),
    up_block_types=(CROSS[1], "UpBlock2D"),
    use_linear_projection=True,
    attention_head_dim=(1, 4),
    transformer_layers_per_block=(1, 2),
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=6 + 6 * 4,
)
# name -> config of UNet2DConditionModel
KINDS = {
    "sd1": PLAIN,
    "sd2": PLAIN
    | dict(
        block_out_channels=(8, 12),
        use_linear_projection=True,
        attention_head_dim=(2, 3),
        upcast_attention=True,
        mid_block_scale_factor=1.5,
    ),
    "xl": XL,
    # Smaller students: no bottleneck; a bottleneck of one block, unequal depths.
    "bk": PLAIN | dict(mid_block_type=None, downsample_padding=0),
    "unequal": XL
    | dict(
        mid_block_type="UNetMidBlock2D",
        layers_per_block=(1, 2),
        transformer_layers_per_block=(1, (2, 1)),
        reverse_transformer_layers_per_block=((1, 2, 1), 1),
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=(3, 5),  # which do not divide the channels
        flip_sin_to_cos=False,
        freq_shift=1,
        center_input_sample=True,
        time_embedding_dim=24,
    ),
}


def fixtures(folder: pathlib.Path) -> None:
    """Writes inputs, outputs and gradients of tiny networks of each kind."""
    diffusers, torch = _theirs()
    sys.path.append(str(ROOT / "tests"))
    named_weights: Any = importlib.import_module("named_weights")
    arrays = {}
    for name, config in KINDS.items():
        unet = diffusers.UNet2DConditionModel(**config).double().eval()
        weights = {
            key: torch.tensor(named_weights.tensor(key, tuple(leaf.shape))).double()
            for key, leaf in unet.state_dict().items()
        }
        unet.load_state_dict(weights)
        given = _inputs(torch, config)
        asked = {k: v.clone().double().requires_grad_() for k, v in given.items()}
        out = unet(
            asked["x"],
            asked["t"],
            asked["context"],
            added_cond_kwargs={
                k: asked[k] for k in ("text_embeds", "time_ids") if k in asked
            },
        ).sample
        (out**2).sum().backward()
        found = {**given, "out": out.detach()}
        reads = [k for k in ("x", "context", "text_embeds") if k in asked]
        found |= {f"grad_{k}": asked[k].grad for k in reads}
        arrays |= {f"{name}/{k}": v.float().numpy() for k, v in found.items()}
        norms = {k: float(p.grad.norm()) for k, p in unet.named_parameters()}
        arrays[f"{name}/norms"] = np.float32([norms[key] for key in sorted(norms)])
        print(f"{name}: {sum(p.numel() for p in unet.parameters())} parameters")
    np.savez_compressed(folder / "unet2d_condition.npz", **arrays)


def _inputs(torch, config) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    found = dict(
        x=draw(2, 4, 8, 12),
        t=torch.tensor([3.0, 700.25]),
        context=draw(2, 5, config["cross_attention_dim"]),
    )
    if "addition_embed_type" in config:
        found["text_embeds"] = draw(2, 6)
        found["time_ids"] = torch.tensor([[64.0, 48, 0, 3, 64, 64], [5, 4, 3, 2, 1, 0]])
    return found


def _theirs() -> tuple[Any, Any]:
    """The modules of the other environment."""
    return importlib.import_module("diffusers"), importlib.import_module("torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=("fixtures",))
    parser.add_argument("folder", type=pathlib.Path)
    asked = parser.parse_args()
    fixtures(asked.folder)


if __name__ == "__main__":
    main()
