"""FID's Inception-v3 up to its first max pool: 64 features, means over the image."""

from kdiff_jax.features import inception, inception_layers

FILE, load = inception.FILE, inception.load
EXTRACTOR = inception_layers.only("64")
