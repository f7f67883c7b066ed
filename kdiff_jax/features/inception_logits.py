"""FID's Inception-v3 with its 1008 logits as the features."""

from kdiff_jax.features import inception, inception_layers

FILE, load = inception.FILE, inception.load
EXTRACTOR = inception_layers.only("logits")
