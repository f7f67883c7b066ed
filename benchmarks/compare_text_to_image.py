"""Images of prompts against the pipelines of the diffusers library, in two phases.

diffusers and PyTorch are no dependencies of kdiff_jax: they live in an environment of
their own (diffusers 0.42.1, transformers 5.24.0, torch 2.13.0), here called theirs/.

    PYTHONPATH=.:tests python benchmarks/compare_text_to_image.py make folder
    theirs/bin/python benchmarks/compare_text_to_image.py run folder tests/parity/data

`make` writes the tiny pipelines of tests/pipeline_files.py and their noise; `run`
writes the latents and images that the library makes of them, in float32:
tests/parity/data/text_to_image.npz.
"""

import argparse
import importlib
import json
import pathlib
import sys
from typing import Any

import numpy as np


def make(folder: pathlib.Path) -> None:
    """Writes the pipelines, and what they are asked for."""
    files: Any = importlib.import_module("pipeline_files")
    for kind, steps in files.STEPS.items():
        files.folder(folder / kind, kind)
        np.save(folder / f"{kind}.npy", files.noise(kind))
        asked = dict(prompt=files.PROMPTS, num_inference_steps=steps)
        negative = {} if kind == "xl" else dict(negative_prompt=files.NEGATIVE)
        (folder / f"{kind}.json").write_text(json.dumps(asked | negative))


def run(folder: pathlib.Path, output: pathlib.Path) -> None:
    """Writes what the library makes of them."""
    sys.modules["torchvision"] = None  # type: ignore[assignment] # not needed
    diffusers: Any = importlib.import_module("diffusers")
    transformers: Any = importlib.import_module("transformers")
    torch: Any = importlib.import_module("torch")
    found = {}
    for path in sorted(folder.glob("*.json")):
        kind, home = path.stem, folder / path.stem
        named = dict(
            unet=diffusers.UNet2DConditionModel.from_pretrained(home / "unet"),
            vae=diffusers.AutoencoderKL.from_pretrained(home / "vae"),
            text_encoder=transformers.CLIPTextModel.from_pretrained(
                home / "text_encoder"
            ),
            tokenizer=transformers.CLIPTokenizer.from_pretrained(home / "tokenizer"),
        )
        config = json.loads((home / "scheduler/scheduler_config.json").read_text())
        scheduler = getattr(diffusers, config.pop("_class_name"))
        named["scheduler"] = scheduler.from_config(config)
        if kind == "xl":
            encoder = transformers.CLIPTextModelWithProjection
            named["text_encoder_2"] = encoder.from_pretrained(home / "text_encoder_2")
            tokenizer = transformers.CLIPTokenizer
            named["tokenizer_2"] = tokenizer.from_pretrained(home / "tokenizer_2")
            pipeline = diffusers.StableDiffusionXLPipeline(**named)
        else:
            more = dict(safety_checker=None, feature_extractor=None)
            pipeline = diffusers.StableDiffusionPipeline(**named, **more)
        pipeline.set_progress_bar_config(disable=True)
        z = np.moveaxis(np.load(folder / f"{kind}.npy"), -1, 1)
        asked = json.loads(path.read_text())
        latents = pipeline(
            **asked,
            guidance_scale=7.5,
            latents=torch.tensor(z),
            output_type="latent",
        ).images
        scale = pipeline.vae.config.scaling_factor
        with torch.no_grad():
            images = pipeline.vae.decode(latents / scale).sample
        for name, value in dict(latents=latents, images=images).items():
            array = np.moveaxis(value.numpy(), 1, -1).astype(np.float32)
            found[f"{kind}/{name}"] = array
    np.savez_compressed(output / "text_to_image.npz", **found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=["make", "run"])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path, nargs="?")
    args = parser.parse_args()
    if args.phase == "make":
        make(args.folder)
    else:
        run(args.folder, args.output or args.folder)


if __name__ == "__main__":
    main()
