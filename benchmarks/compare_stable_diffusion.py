"""Stable Diffusion's U-Nets against the diffusers library itself.

diffusers and PyTorch are no dependencies of kdiff_jax: they live in an environment of
their own (diffusers 0.42.1, transformers 5.24.0, torch 2.13.0), here called theirs/.

    theirs/bin/python benchmarks/compare_stable_diffusion.py make folder
    python benchmarks/compare_stable_diffusion.py write folder
    theirs/bin/python benchmarks/compare_stable_diffusion.py load folder

`make` saves a tiny pipeline of each kind, with random weights, and what it answers.
`write` compares our answers, and writes the pipelines back by way of our own folders,
and one-step students. `load` compares what diffusers makes of those. Each prints one
line per kind with the largest difference, and fails if one is too large. A fourth
phase,

    theirs/bin/python benchmarks/compare_stable_diffusion.py fixtures tests/parity/data

writes what the library gives for tiny networks of each kind, in float64 and with
weights of `tests/named_weights.py`: tests/parity/data/unet2d_condition.npz.
"""

import argparse
import importlib
import pathlib
import sys
from typing import Any

import numpy as np

TOLERANCE = 3e-5
STEPS, PROMPTS = 4, ["a red church", "a photo of a dog"]
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
            key: torch.tensor(
                named_weights.stable_diffusion(key, tuple(leaf.shape))
            ).double()
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


def make(folder: pathlib.Path) -> None:
    """Saves pipelines, and what their networks and the whole of them answer."""
    _, torch = _theirs()
    for name, config in KINDS.items():
        if name in ("xl", "unequal"):  # whose pipeline has two encoders: unet/ alone
            continue
        pipeline = _pipeline(config | dict(sample_size=8))
        home = folder / name / "theirs"
        pipeline.save_pretrained(home)
        given = _inputs(torch, config)
        x, t, context = given["x"], given["t"], given["context"]
        with torch.no_grad():
            out = pipeline.unet(x, t, context).sample
        arrays = dict(x=x, t=t, context=context, out=out, z=torch.randn(2, 4, 8, 8))
        arrays["latents"] = _latents(pipeline, arrays["z"], STEPS, 3.0)
        np.savez(folder / name / "io.npz", **{k: v.numpy() for k, v in arrays.items()})
        print(
            f"{name}: {sum(p.numel() for p in pipeline.unet.parameters())} parameters"
        )


def _pipeline(config) -> Any:
    """A StableDiffusionPipeline of random weights, but for the tokenizer's."""
    diffusers, torch = _theirs()
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(0)
    width = config["cross_attention_dim"]
    text = transformers.CLIPTextConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
    )
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
    tokens = ROOT / "tests" / "parity" / "data" / "clip_tokenizer"
    return diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(text).eval(),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(tokens),
        unet=diffusers.UNet2DConditionModel(**config).eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _latents(pipeline, z, steps: int, guidance: float):
    _, torch = _theirs()
    pipeline.set_progress_bar_config(disable=True)
    call = dict(num_inference_steps=steps, guidance_scale=guidance)
    with torch.no_grad():
        return pipeline(PROMPTS, latents=z, output_type="latent", **call).images


def write(folder: pathlib.Path) -> None:
    """Compares our answers, and writes our models back."""
    from kdiff_jax import interop
    from kdiff_jax.interop import convert

    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        io = np.load(home / "io.npz")
        convert.run(home / "theirs", home / "ours")
        model = interop.load(home / "ours")
        x, t = np.moveaxis(io["x"], 1, -1), io["t"]
        x0_hat = np.asarray(model.apply(x, t, io["context"]))
        alpha, sigma = (
            np.asarray(of(t))[:, None, None, None]
            for of in (model.process.alpha, model.process.sigma)
        )
        eps_hat = np.moveaxis((x - alpha * x0_hat) / sigma, -1, 1)
        lost = 2e-7 * np.abs(x0_hat).max() * (alpha / sigma).max()
        _report(f"{home.name}: eps", eps_hat, io["out"], TOLERANCE + lost)
        convert.run(home / "ours", home / "back", "diffusers")
        one_step = dict(sampler=dict(name="ddim", num_steps=1, guidance=1))
        spec = model.spec.changed(one_step)
        interop.save(home / "student", params=model.params, spec=spec)
        pipeline = str(home / "theirs")
        convert.run(home / "student", home / "one", "diffusers", pipeline=pipeline)


def load(folder: pathlib.Path) -> None:
    """Compares what diffusers makes of what we have written."""
    diffusers, torch = _theirs()
    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        io = {k: torch.tensor(v) for k, v in np.load(home / "io.npz").items()}
        back = diffusers.StableDiffusionPipeline.from_pretrained(home / "back")
        with torch.no_grad():
            out = back.unet(io["x"], io["t"], io["context"]).sample
        _report(f"{home.name}: eps of what was written", out, io["out"], TOLERANCE)
        found = _latents(back, io["z"], STEPS, 3.0)
        _report(f"{home.name}: latents", found, io["latents"], TOLERANCE)
        one = diffusers.StableDiffusionPipeline.from_pretrained(home / "one")
        found = _latents(one, io["z"], 1, 1.0)
        states = one.encode_prompt(PROMPTS, "cpu", 1, False)[0]
        with torch.no_grad():
            eps = one.unet(io["z"], 999, states).sample
        abar = one.scheduler.alphas_cumprod[999]
        expected = (io["z"] - (1 - abar).sqrt() * eps) / abar.sqrt()
        _report(f"{home.name}: one step", found, expected, TOLERANCE * 15)


def _report(name: str, found, expected, tolerance: float) -> None:
    worst = float(np.abs(np.asarray(found) - np.asarray(expected)).max())
    print(f"{name}: {worst:.1e}")
    if not worst <= tolerance:
        raise SystemExit(f"{name}: over {tolerance:.1e}")


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
    phases = dict(fixtures=fixtures, make=make, write=write, load=load)
    parser.add_argument("phase", choices=phases)
    parser.add_argument("folder", type=pathlib.Path)
    asked = parser.parse_args()
    phases[asked.phase](asked.folder)


if __name__ == "__main__":
    main()
