"""Prompts to tokens, text states and images, by a folder of Stable Diffusion.

```python
tokens = text.tokenizer(FOLDER)
encoder = text.load(FOLDER, part="text_encoder")
out = encoder.apply(tokens(prompts))  # .hidden .pooled .penultimate .projected
latents, images = text.generate(FOLDER, prompts, num_steps=25, guidance=7.5)
clip = text.load_clip(FOLDER)  # both towers: see `text.clip`
```
"""

from kdiff_jax.text.clip import Clip, load_clip
from kdiff_jax.text.encoder import PART, Encoder, load, tokenizer
from kdiff_jax.text.generation import generate
from kdiff_jax.text.networks import Pipeline, pipeline
from kdiff_jax.text.whole import load_model

__all__ = [
    "PART",
    "Clip",
    "Encoder",
    "Pipeline",
    "generate",
    "load",
    "load_clip",
    "load_model",
    "pipeline",
    "tokenizer",
]
