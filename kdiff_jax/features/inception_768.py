"""FID's Inception-v3 up to Mixed_6e: 768 features, means over the image."""

from kdiff_jax.features import inception, inception_layers

FILE, load = inception.FILE, inception.load
EXTRACTOR = inception_layers.only("768")
