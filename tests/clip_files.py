"""A tiny whole CLIP in the files of transformers, with weights by their names."""

import json
import pathlib
import shutil

import named_weights
import numpy as np

from kdiff_jax.formats import lazy, tensors

TOKENIZER = pathlib.Path(__file__).parent / "parity/data/clip_tokenizer"
TEXT = dict(
    vocab_size=1000,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
    eos_token_id=2,
)
IMAGE = dict(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    patch_size=8,
    image_size=32,
    hidden_act="quick_gelu",
)
CONFIG = dict(
    model_type="clip",
    architectures=["CLIPModel"],
    projection_dim=8,
    text_config=TEXT,
    vision_config=IMAGE,
)


def shapes(config) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of a CLIPModel, by transformers' names."""
    text, image = config["text_config"], config["vision_config"]
    out, width, patch = (
        config["projection_dim"],
        image["hidden_size"],
        image["patch_size"],
    )
    places = (image["image_size"] // patch) ** 2 + 1
    embeddings, vision = "text_model.embeddings", "vision_model.embeddings"
    found = {
        f"{embeddings}.token_embedding.weight": (
            text["vocab_size"],
            text["hidden_size"],
        ),
        f"{embeddings}.position_embedding.weight": (77, text["hidden_size"]),
        f"{vision}.class_embedding": (width,),
        f"{vision}.patch_embedding.weight": (width, 3, patch, patch),
        f"{vision}.position_embedding.weight": (places, width),
        "text_projection.weight": (out, text["hidden_size"]),
        "visual_projection.weight": (out, width),
    }
    norms = {
        "text_model.final_layer_norm": text["hidden_size"],
        "vision_model.pre_layrnorm": width,
        "vision_model.post_layernorm": width,
    }
    for tower, about in (("text_model", text), ("vision_model", image)):
        size, hidden = about["hidden_size"], about["intermediate_size"]
        for i in range(about["num_hidden_layers"]):
            start = f"{tower}.encoder.layers.{i}"
            norms |= {f"{start}.layer_norm{k}": size for k in (1, 2)}
            layers = {
                f"self_attn.{k}_proj": (size, size) for k in ("q", "k", "v", "out")
            }
            layers |= {"mlp.fc1": (hidden, size), "mlp.fc2": (size, hidden)}
            for name, shape in layers.items():
                found[f"{start}.{name}.weight"] = shape
                found[f"{start}.{name}.bias"] = shape[:1]
    for name, size in norms.items():
        found |= {f"{name}.{leaf}": (size,) for leaf in ("weight", "bias")}
    return found


def folder(path: pathlib.Path, config=None, sign: int = 1) -> pathlib.Path:
    """Writes such a folder, with a tokenizer; all cosines have the sign before them."""
    config = CONFIG if config is None else config
    shutil.copytree(TOKENIZER, path, dirs_exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    arrays = {name: named_weights.tensor(name, s) for name, s in shapes(config).items()}
    arrays["visual_projection.weight"] *= sign
    arrays["logit_scale"] = np.ones((), np.float32)
    leaves = {name: lazy.of(array) for name, array in arrays.items()}
    tensors.write(path / "model.safetensors", leaves)
    return path


def pictures(num: int = 4) -> np.ndarray:
    """uint8[num, 40, 56, 3], smooth, so that a filter is all that a resize is."""
    rng = np.random.default_rng(0)
    phase, slope = rng.uniform(0, 6, (num, 1, 1, 3)), rng.uniform(2, 9, (num, 1, 1, 3))
    y, x = np.mgrid[0:40, 0:56][..., None] / 40
    values = np.sin(slope * x + phase) * np.cos(slope[..., ::-1] * y)
    return np.round(127.5 + 127 * values).astype(np.uint8)


PROMPTS = ["a photo of a cat", "Two dogs, in the snow!", "", "a red boat " * 40]
