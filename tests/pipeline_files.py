"""Tiny pipelines of Stable Diffusion 1, 2 and XL, whole, weights by their names."""

import importlib.util
import json
import pathlib
import shutil

import named_weights
import numpy as np
from encoder_files import QUICK, text_folder, vae_folder

HERE = pathlib.Path(__file__).parent
TOKENIZER = HERE / "parity/data/clip_tokenizer"
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
TEXT = QUICK | dict(vocab_size=1000, max_position_embeddings=77, hidden_size=12)
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SD = BETAS | dict(steps_offset=1, set_alpha_to_one=False)
SCHEDULERS = {
    "sd1": SD | dict(_class_name="PNDMScheduler", skip_prk_steps=True),
    "sd2": SD
    | dict(
        _class_name="DDIMScheduler", clip_sample=False, prediction_type="v_prediction"
    ),
    "xl": BETAS
    | dict(
        _class_name="EulerDiscreteScheduler",
        steps_offset=1,
        timestep_spacing="leading",
    ),
}
PROMPTS = ["a photo of a cat", "the night sky over a red boat"]
NEGATIVE = ["blurry", ""]
STEPS = dict(sd1=5, sd2=4, xl=4)


def _unets():
    """`interop/stable_diffusion.py`, which lies beside other tests."""
    path = HERE / "interop/stable_diffusion.py"
    spec = importlib.util.spec_from_file_location("tiny_stable_diffusion", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def folder(path, kind):
    """Writes a pipeline of the kind "sd1", "sd2" or "xl"."""
    unets = _unets()
    config = unets.config(kind)
    shapes = {name: x.shape for name, x in unets.tensors(config).items()}
    arrays = {name: named_weights.tensor(name, s) for name, s in shapes.items()}
    arrays["conv_out.weight"] = arrays["conv_out.weight"] * np.float32(0.3)
    unets.pipeline(path, config, arrays, scheduler=SCHEDULERS[kind])
    vae_folder(path / "vae")
    encoders = {"": TEXT}
    if kind == "xl":
        second = TEXT | dict(
            architectures=["CLIPTextModelWithProjection"],
            hidden_size=4,
            num_attention_heads=1,
            projection_dim=6,
            hidden_act="gelu",
        )
        encoders = {"": TEXT | dict(hidden_size=8), "_2": second}
    for end, about in encoders.items():
        text_folder(path / f"text_encoder{end}", about)
        (path / f"tokenizer{end}").mkdir(exist_ok=True)
        for name in FILES:
            shutil.copy(TOKENIZER / name, path / f"tokenizer{end}")
    if kind == "xl":
        index = json.loads((path / "model_index.json").read_text())
        index["_class_name"] = "StableDiffusionXLPipeline"
        index["force_zeros_for_empty_prompt"] = True
        (path / "model_index.json").write_text(json.dumps(index))
    return path


def noise(kind):
    """z of two images, f32[2, 8, 8, 4]."""
    rng = np.random.default_rng(len(kind))
    return rng.standard_normal((2, 8, 8, 4)).astype(np.float32)
