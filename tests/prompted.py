"""Prompts for tests: a pipeline's tokenizer and text encoder, and a model of them."""

import pathlib
import shutil

import encoder_files
import jax
import numpy as np

from kdiff_jax import domain, interop, text
from kdiff_jax.encoders.texts import ROLE
from kdiff_jax.formats import clip_tokenizer

TOKENIZER = pathlib.Path(__file__).parent / "parity/data/clip_tokenizer"
LENGTH = 12
PROMPTS = [
    f"{size} {thing}" for size in ("big", "red") for thing in "ab cd ef gh".split()
]
FILE = encoder_files.QUICK | dict(vocab_size=1000, max_position_embeddings=77)
FIELDS = dict(
    name="clip_text",
    vocab_size=1000,
    width=16,
    num_blocks=2,
    num_heads=2,
    hidden=24,
)


def pipeline(path: pathlib.Path) -> pathlib.Path:
    """A folder with a tokenizer and a text encoder, and a file of prompts."""
    encoder_files.text_folder(path / "text_encoder", FILE)
    shutil.copytree(TOKENIZER, path / "tokenizer")
    (path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return path


def model(path: pathlib.Path, pipeline: pathlib.Path) -> pathlib.Path:
    """A model of images of one coloured pixel, with random weights."""
    spec = interop.Spec.of(
        dict(
            network=dict(name="mlp", channels=16, num_blocks=2),
            precondition=dict(name="v"),
            process=dict(name="cosine"),
            image_shape=(1, 1, 3),
            sampler=dict(name="ddim", num_steps=2),
            num_classes=len(PROMPTS),
            cond_dim=16,
            cond_length=LENGTH,
            text=FIELDS,
        )
    )
    net, _ = interop.build(spec)
    params = jax.tree.map(lambda x: 2 * x + 0.1, net.init(jax.random.key(0)))
    ids = text.tokenizer(pipeline)([*PROMPTS, ""])[:, :LENGTH].astype(np.uint16)
    frozen = {domain.TABLE: ids, ROLE: text.load(pipeline).params}
    interop.save(path, spec=spec, params=params, frozen=frozen)
    clip_tokenizer.copy(pipeline, path)
    return path
