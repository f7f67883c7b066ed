"""Frozen networks between what people see or write and what denoisers read.

One module per network: `autoencoder_kl` between images and latents, `clip_text` from
the tokens of a prompt to text states. They are Flax modules like any other; their files
are read by `kdiff_jax.latent` and `kdiff_jax.text`.
"""
